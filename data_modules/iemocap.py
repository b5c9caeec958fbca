"""IEMOCAP in MulT's form: four emotions, each its own two-way problem."""

from __future__ import annotations

from data_modules.base import FusionDataModule
from data_modules.card import DataCard


class IEMOCAP(FusionDataModule):
    """Batches of IEMOCAP; see :class:`FusionDataModule` for the arguments and ``card`` for the data."""

    key = "iemocap"
    card = DataCard(
        title="IEMOCAP",
        citation="Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, LRE 42 (2008).",
        licence="By signed request to its owner, USC SAIL; no redistribution.",
        content="Utterances of ten actors in five sessions; neutral, happy, sad and angry as four binary problems.",
        features="MulT pickles: GloVe 300, COVAREP 74, FACET 35; word-aligned (20 steps) or unaligned (20/400/500).",
        splits="standard: 2,717 / 798 / 938 utterances; test is session 1, validation session 2, so speakers differ.",
        defects=(
            "A majority guess already scores acc/F1 0.592/0.440 (neutral), 0.856/0.790 (happy), 0.794/0.703 (sad) and "
            "0.758/0.654 (angry): a model at these numbers has learnt nothing. Audio holds -inf."
        ),
        bring="mmbench data import mult PATH/iemocap_data.pkl --dataset iemocap --out data/iemocap.h5",
        task="binary",
    )
