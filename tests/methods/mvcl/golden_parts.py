"""MVCL with the weights and inputs of the cases, and what is compared of it."""

import torch

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.mvcl import MVCL
from tests.golden.cases import fill, gradient_norms, renamed

DIMS = {"text": 20, "audio": 5, "vision": 7}
LETTERS = {"i": "text", "j": "audio", "k": "vision"}
SPEC = DataSpec(
    "golden",
    "random",
    "standard",
    {name: ModalitySpec(name, dim, 13) for name, dim in DIMS.items()},
    TargetSpec("regression", ("sentiment",), -3.0, 3.0),
)
# Widths as the cases have them, dropouts off, classes by float equality as in the rebuild.
OFFICIAL = {
    "mode": "joint",
    "classes": "exact",
    "dim": 16,
    "heads": 4,
    "unimodal_layers": 2,
    "hidden_audio": 8,
    "hidden_vision": 12,
    "out_audio": 8,
    "out_vision": 12,
    "post_text": 20,
    "post_audio": 8,
    "post_vision": 12,
    "post_fusion": 24,
    "kernel_audio": 5,
    "kernel_vision": 3,
    "text_ends": True,
}
OFFICIAL |= dict.fromkeys(("attention_dropout", "attention_dropout_fusion", "attention_dropout_audio"), 0.0)
OFFICIAL |= dict.fromkeys(("embed_dropout", "dropout_audio", "dropout_vision", "dropout_fusion"), 0.0)
BLOCK = (
    (r"\.self_attention\.in_proj_", r".attention.packed."),
    (r"\.self_attention\.out_proj\.", r".attention.out."),
    (r"\.fc1\.", r".network.0."),
    (r"\.fc2\.", r".network.3."),
    (r"\.layer_norms\.0\.", r".attention_norm."),
    (r"\.layer_norms\.1\.", r".network_norm."),
    (r"(^|\.)transformer\.layer_norm\.", r"\1encoder.norm."),
    (r"(^|\.)transformer\.layers\.", r"\1encoder.layers."),
    (r"(^|\.)project_m\.project_m\.", r"\1project.0."),
    (r"(^|\.)project_m\.project_n_layer_norm\.", r"\1project.2."),
    (r"(^|\.)pooler\.dense\.", r"\1pooler.0."),
)


def view(letters):
    return "_".join(LETTERS[letter] for letter in letters)


VIEWS = ("ijk", "ikj", "jik", "jki", "kij", "kji")
MERGERS = ("ij", "ji", "ki", "ik", "jk", "kj")
TO_OURS = renamed(
    (r"_mlp\.fc1\.", r"_mlp.net.0."),
    (r"_mlp\.fc2\.", r"_mlp.net.2."),
    *((rf"^mlp_{m[0]}\.fc1\.", rf"network.unimodal.{m}.3.net.0.") for m in MODALITIES),
    *((rf"^mlp_{m[0]}\.fc2\.", rf"network.unimodal.{m}.3.net.2.") for m in MODALITIES),
    *((rf"^post_{m}_layer_1\.", rf"network.unimodal.{m}.1.") for m in MODALITIES),
    *((rf"^align_{m[0]}_transformer_dim\.", rf"network.interaction.tokens.{m}.") for m in MODALITIES),
    *((rf"^{m}_lstm_encoder\.lstm\.", rf"network.encoders.{m}.lstm.rnn.") for m in MODALITIES),
    *((rf"^{m}_lstm_encoder\.linear_1\.", rf"network.encoders.{m}.vector.") for m in MODALITIES),
    *((rf"^conv_{m[0]}\.", rf"network.encoders.{m}.conv.") for m in MODALITIES),
    *((rf"^{m}_trans_encoder\.", rf"network.encoders.{m}.reader.") for m in MODALITIES),
    *((rf"^transformer_{pair}\.", rf"network.interaction.mergers.{view(pair)}.") for pair in MERGERS),
    *((rf"^transformer_{order}\.", rf"network.interaction.readers.{view(order)}.") for order in VIEWS),
    *((rf"^{order}_mlp\.", rf"network.view_projectors.{view(order)}.") for order in VIEWS),
    (r"^fusion_encoder\.", r"network.fusion.reader."),
    (r"^post_fusion_layer_1\.", r"network.fusion.post.1."),
    (r"^post_fusion_layer_2\.", r"network.head.0."),
    (r"^post_fusion_layer_3\.", r"network.head.2."),
    (r"^fusion_mlp\.", r"network.fused_projector."),
    *BLOCK,
)


def golden_method(case, **settings):
    """Return our method with the prescribed weights, and the map of the names that it has."""
    method = MVCL(SPEC, config=MVCL.Config(**OFFICIAL | settings)).double().train()
    ours = dict(method.named_parameters())

    def names(name):
        return TO_OURS(name) if TO_OURS(name) in ours else ()

    fill(method, case.table(), names)
    return method, names


def golden_batch(case):
    inputs = {}
    for name in MODALITIES:
        values = case[f"inputs.{'text_hidden' if name == 'text' else name}"].requires_grad_()
        inputs[name] = PaddedSequence(values, case[f"inputs.{name}_lengths"])
    label = case["inputs.labels_M"]
    return Batch(inputs, label, torch.arange(len(label)))


def tolerance(case, kind):
    return case.info["tolerances"]["float64_model_vs_case"][kind]


def close(case, actual, key):
    kind = "gradnorm" if key.startswith("gradnorm") else "outputs_and_losses"
    torch.testing.assert_close(actual.detach(), case[key], **tolerance(case, kind))


def close_gradients(case, method, names, terms, batch):
    """Compare the gradient norms of each term alone and of the total, and the gradients of the inputs."""
    for suffix, term in terms.items():
        method.zero_grad(set_to_none=True)
        for item in batch.inputs.values():
            item.values.grad = None
        term.backward(retain_graph=True)
        close(case, gradient_norms(method, case.table(), names), f"gradnorm{suffix}")
    for name, item in batch.inputs.items():  # those of the last term, the total
        close(case, item.values.grad, f"gradinput.{'text_hidden' if name == 'text' else name}")


def watched(method):
    """Return a dictionary that fills with the outputs of the inner modules under the names of the cases."""
    seen = {}

    def watch(module, key, value=lambda out: out):
        module.register_forward_hook(lambda _, __, out: seen.__setitem__(key, value(out)))

    network = method.network
    for name, linear in network.interaction.tokens.items():
        watch(
            network.encoders[name],
            f"tokens.{name}",
            lambda out, linear=linear: out[1].layout.padded(linear(out[1].rows)),
        )
    for pair in MERGERS:
        watch(network.interaction.mergers[view(pair)], f"second.{pair}", lambda out: out.padded())
    for name in ("audio", "vision"):
        encoder = network.encoders[name]
        watch(encoder, f"pooled.{name}", lambda out: out[0])
        if hasattr(encoder, "conv"):
            encoder.reader.register_forward_pre_hook(
                lambda _, args, name=name: seen.__setitem__(f"conv.{name}", args[0].padded())
            )
    watch(network.fusion.reader, "fusion_transformer", lambda out: out.rows)
    watch(network.fusion.reader.pooler, "fusion_pooled")
    return seen
