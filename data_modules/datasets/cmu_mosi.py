"""CMU-MOSI: opinion segments of YouTube movie reviews, sentiment from -3 to 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.normalization import Normalize
from data_modules.card import DataCard


class CMUMOSI(FusionDataModule):
    """Batches of CMU-MOSI; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import CMUMOSI
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec(dataset="mosi", feature_set="minilm-audio")) as path:  # random values
        ...     data = CMUMOSI(path)
        >>> data.spec.track, data.normalize  # other feature sets are left as they are
        ('mosi/minilm-audio/standard', 'train')
        >>> data.spec.target.low, data.spec.target.high
        (-3.0, 3.0)
    """

    key = "mosi"
    # Its audio goes up to 376 in some parts and to 0.01 in others, which the statistics of BatchNorm do not follow.
    normalize_by_features: ClassVar[Mapping[str, Normalize]] = {"minilm-audio": "train"}
    card = DataCard(
        title="CMU-MOSI",
        citation="Zadeh et al., MOSI: Multimodal Corpus of Sentiment Intensity, arXiv 1606.06259 (2016).",
        licence="Research use; get the files from the owners' pages.",
        content="2,199 opinion segments of 93 videos by 89 speakers; sentiment in [-3, 3], mean of five annotators.",
        features=(
            "MMSA pickles: BERT 768, COVAREP 5 of 74, FACET 20 of 47. MulT pickles: GloVe 300, COVAREP, FACET. "
            "MISA and MAG pickles: words, COVAREP 74, FACET 47. Computational sequences (.csd): words with times, "
            "GloVe 300, COVAREP 74, FACET 47, openSMILE, OpenFace. bc-LSTM utterance vectors: text 100, audio 73, "
            "vision 100. minilm-audio: transcripts as the sentence encoder all-MiniLM-L6-v2 reads them, 384, and the "
            "bc-LSTM audio vectors, which are no network's; that audio tells next to nothing of the sentiment."
        ),
        splits=(
            "standard: 1,284 / 229 / 686 segments of 52 / 10 / 31 videos. videos62-31 (bc-LSTM features): the 62 "
            "training and 31 test videos of the feature release, validation cut from the 62 by video."
        ),
        defects=(
            "COVAREP holds -inf. One training segment has no duration: from .csd files it is left out, as by the SDK, "
            "or zeros. Train and test label means have opposite signs. The bc-LSTM text and vision vectors "
            "come from networks trained on their 62 training videos: on the standard split they leak test labels, on "
            "videos62-31 validation scores are too good while test scores are honest, and for "
            "most methods the best one, 0.59 to 0.65, comes after one to six epochs, as a ridge on text has it (0.59): "
            "which later epoch is selected is chance."
        ),
        command=(
            "mmbench data import mmsa PATH/unaligned_50.pkl --dataset mosi --out data/mosi.h5 "
            "(formats: mmsa, mult, misa, csd, plain); minilm-audio: format plain with --text_encoder, see README"
        ),
        forms=("features", "dialogues"),
    )
