"""RAVDESS: 24 actors speak two sentences in eight emotions."""

from __future__ import annotations

from data_modules.batches.data_module import FusionDataModule
from data_modules.card import DataCard


class RAVDESS(FusionDataModule):
    """Batches of RAVDESS; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import RAVDESS
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec("multiclass", ("audio", "vision"), dataset="ravdess")) as path:  # random values
        ...     data = RAVDESS(path, batch_size=4)
        ...     data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> list(batch.inputs), tuple(batch.target.shape)  # audio and vision, and the number of a class
        (['audio', 'vision'], (4,))
    """

    key = "ravdess"
    normalize_default = "train"
    card = DataCard(
        title="RAVDESS",
        citation="Livingstone and Russo, PLoS ONE 13(5): e0196391 (2018); Zenodo record 1188976.",
        licence="CC BY-NC-SA 4.0; commercial licences from the authors.",
        content="1,440 speech clips (60 per actor), eight emotions; chance 0.125, majority 0.133.",
        features=(
            "Audio: log-mel or MFCC sequences by librosa, or eGeMAPS by openSMILE (25 descriptors every 50 ms, or "
            "88 functionals of the clip; its licence allows research and non-commercial use), standardised by the "
            "training split. Vision: OpenFace action units (17 intensities, 18 presences), one row per clip or one per "
            "frame. Raw (format ravdess_media): "
            "waveforms and pictures; cfnsr is the recipe of MSAF and CFN-SR. No text: both sentences are constant. "
            "What is computed here is known by its recipe and files, action units by their exact values."
        ),
        splits=(
            "luna5: the published subject-wise five folds; validation is the next fold's actors, training the other "
            "three folds. Also msaf6, cfnsr5 and chumachenko. No actor is in two parts."
        ),
        defects=(
            "Six stereo clips, one pair of identical clips; the video archives hold a silent copy (02) of every take. "
            "Many papers choose the epoch on the test actors; CFN-SR's best epoch is 9 points above its last."
        ),
        command=(
            "mmbench data import ravdess PATH/audio --dataset ravdess --face PATH/openface.csv --out data/ravdess.h5"
            "; eGeMAPS: with --audio_features egemaps, to data/ravdess-egemaps-au.h5"
            "; raw: mmbench data import ravdess_media PATH/video --out data/ravdess_media.h5"
        ),
        modalities=("audio", "vision"),
        task="multiclass",
        forms=("features", "media"),
    )
