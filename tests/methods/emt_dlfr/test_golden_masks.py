"""What goes missing, by the rules of EMT-DLFR's official code; see ``tests/golden/emt_dlfr/README.md``."""

import numpy as np
import pytest

from data_modules.batches.corruption import Corruption, corrupt, kept_steps, sample_keys
from data_modules.schema import MODALITIES
from tests.golden.cases import Case

MASKS = Case.load("emt_dlfr", "case_masks")
UNKNOWN = 100


def check_masks(rate, kept, values, damaged, lengths, tokens):
    """Assert what the official code and this suite agree on, whatever they draw.

    Args:
        rate: Missing rate.
        kept: (N, T) which steps are not missing, False in padding.
        values: (N, T) ids or (N, T, D) features.
        damaged: What the model sees.
        lengths: (N,) true lengths.
        tokens: Whether values are ids.
    """
    real = np.arange(kept.shape[1]) < lengths[:, None]
    assert not kept[~real].any()
    unknown = UNKNOWN if tokens else 0
    np.testing.assert_array_equal(damaged[kept], values[kept])
    assert (damaged[real & ~kept] == unknown).all()
    np.testing.assert_array_equal(damaged[~real], values[~real])
    inner = real.copy()
    if tokens:
        rows = np.arange(len(kept))
        assert kept[:, 0].all()
        assert kept[rows, lengths - 1].all()
        inner[:, 0] = inner[rows, lengths - 1] = False
    share = kept[inner].mean()
    assert share == 1 - rate if rate in (0, 1) else 0 < share < 1


@pytest.mark.parametrize("run", ["r00", "r03", "r07", "r10", "mixed"])
def test_what_goes_missing_goes_by_the_rules_of_the_official_code(run):
    rates = MASKS.info["runs"][run]["rates_text_audio_vision"]
    for name, rate in zip(MODALITIES, rates, strict=True):
        tokens = name == "text"
        values = MASKS.arrays["inputs.ids" if tokens else f"inputs.{name}"]
        lengths = MASKS.arrays["inputs.text_mask"].sum(1) if tokens else MASKS.arrays[f"inputs.{name}_lengths"]
        theirs = MASKS.arrays[f"outputs.{run}.{name}_kept"].astype(bool)
        damaged = MASKS.arrays[f"outputs.{run}.ids_m"] if tokens else values * theirs[..., None]
        check_masks(rate, theirs, values, damaged, lengths, tokens)

        real = np.arange(values.shape[1]) < lengths[:, None]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        keys = sample_keys(f"sample{row}" for row in range(len(values)))
        flat = kept_steps(keys, offsets, name, Corruption(steps=rate), tokens=tokens)
        ours, seen = np.zeros_like(theirs), values.copy()
        ours[real] = flat
        seen[real] = corrupt(values[real], flat, unknown=UNKNOWN if tokens else 0)
        check_masks(rate, ours, values, seen, lengths, tokens)
