"""Whether features are standardised where nobody says: by data set and by feature set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_modules import CMUMOSI, RAVDESS, FusionDataModule
from mmbench.testing.builders import make_spec, write_toy_store


def store(tmp_path: Path, key: str, features: str) -> Path:
    spec = replace(make_spec(), dataset=key, feature_set=features)
    return write_toy_store(tmp_path / f"{key}-{features}.h5", spec)


@pytest.mark.parametrize(
    ("cls", "features", "usual"),
    [(CMUMOSI, "minilm-audio", "train"), (CMUMOSI, "bclstm", "none"), (RAVDESS, "anything", "train")],
)
def test_a_feature_set_may_have_another_default(
    cls: type[FusionDataModule], features: str, usual: str, tmp_path: Path
) -> None:
    path = store(tmp_path, cls.key, features)
    data = cls(path)
    assert data.normalize == usual
    assert data.spec.variant == ""  # the usual has no name of its own
    data.setup("fit")
    batches = [batch.inputs["audio"] for batch in data.train_dataloader()]
    values = torch.cat([sequence.values[sequence.mask] for sequence in batches])
    standard = bool((values.mean(0).abs() < 1e-4).all() and (values.std(0, correction=0) - 1).abs().max() < 1e-4)
    assert standard == (usual == "train")
    other = "none" if usual == "train" else "train"
    assert cls(path, normalize=other).spec.variant == f"normalize-{other}"  # type: ignore[arg-type]
