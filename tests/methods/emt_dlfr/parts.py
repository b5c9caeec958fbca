"""Where the official parameters of EMT-DLFR live in ours."""

import re

from data_modules.schema import MODALITIES
from tests.golden.cases import Piece, renamed

_rename = renamed(
    (r"^(fusion|proj_|audio_model|video_model|post_)", r"network.\1"),
    (r"(audio|video)_model\.rnn", r"readers.\1.lstm.rnn"),
    (r"(audio|video)_model\.linear_1", r"readers.\1.linear"),
    (r"proj_(\w+)\.", r"project.\1."),
    (r"^(\w+)_(projector|predictor)\.net", r"attractions.\1.\2"),
    (r"gmc_tokens", "context"),
    (r"^recon_(\w+)", r"restorers.\1"),
    (r"post_fusion_layer_(\d)", lambda match: f"head.{2 * int(match[1]) - 1}"),
    (r"video", "vision"),
    (r"attn_pools\.(\d)\.attention", r"poolings.\1.score"),
    (r"layers\.0\.0\.fn", "cross"),
    (r"layers\.0\.1\.fn", "itself"),
    (r"layers\.0\.2\.fn\.net\.0", "network.inner"),
    (r"layers\.0\.2\.fn\.net\.2", "network.outer"),
    (r"layers\.0\.0\.norm_context", "context_norm"),
    (r"layers\.0\.0\.norm", "cross_norm"),
    (r"layers\.0\.1\.norm", "self_norm"),
    (r"layers\.0\.2\.norm", "network_norm"),
    (r"to_out", "out"),
)


def name_map(shared=True):
    """Return where official parameters live; queries, keys and values are one tensor of ours."""

    def unit(match):
        layer, modality, direction = (int(part) for part in match.groups())
        key = f"layer{layer}-{MODALITIES[modality]}-{('local', 'context')[direction]}"
        return f"units.{'layers-modalities-both' if shared else key}."

    def names(official):
        ours = re.sub(r"mpus\.(\d)\.(\d)\.(\d)\.", unit, _rename(official))
        if ".to_" not in ours:
            return ours
        first, packed = ".to_q" in ours, re.sub(r"to_(q|kv)", "packed", ours)
        return (Piece(packed, lambda w: w[: len(w) // 3] if first else w[len(w) // 3 :]),)

    return names
