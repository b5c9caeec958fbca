"""CMU-MOSEI: opinion segments of YouTube monologues, sentiment from -3 to 3 and six emotions."""

from __future__ import annotations

from data_modules.batches.data_module import FusionDataModule
from data_modules.card import DataCard


class CMUMOSEI(FusionDataModule):
    """Batches of CMU-MOSEI; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import CMUMOSEI
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec(dataset="mosei", dialogue=True)) as path:  # random values, one vector per segment
        ...     data = CMUMOSEI(path, batch_size=4, dialogue=True)
        ...     data.setup("validate")
        >>> batch = next(iter(data.val_dataloader()))  # the segments of four videos, five or fewer of each
        >>> tuple(batch.target.shape), tuple(batch.inputs["text"].values.shape)
        ((4, 5), (4, 5, 7))
    """

    key = "mosei"
    card = DataCard(
        title="CMU-MOSEI",
        citation="Zadeh et al., Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset, ACL 2018.",
        licence="Research use; get the files from the owners' pages.",
        content=(
            "About 22,860 segments of over 1,000 speakers; sentiment in [-3, 3] and six emotions in [0, 3], three "
            "annotators."
        ),
        features=(
            "MMSA pickles: BERT 768, COVAREP 74, FACET 35. MulT pickles: GloVe 300, COVAREP 74, FACET 35. "
            "Computational sequences (.csd): words with times, GloVe 300, COVAREP 74, FACET 35, OpenFace 2."
        ),
        splits=(
            "standard: 16,326 / 1,871 / 4,659 segments, disjoint by video; by the SDK's folds 2,249 / 300 / 678 "
            "videos, with fewer segments where a modality is missing."
        ),
        defects=(
            "The 35 FACET features hold predicted emotions, so the vision input carries an answer of its own. COVAREP "
            "was faulty for some videos and holds -inf. Segment counts differ between releases."
        ),
        command=(
            "mmbench data import mmsa PATH/unaligned_50.pkl --dataset mosei --out data/mosei.h5 "
            "(formats: mmsa, mult, misa, csd, plain)"
        ),
        forms=("features", "dialogues"),
    )
