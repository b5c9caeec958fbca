"""IEMOCAP in the four forms of its literature; their numbers are never compared with each other."""

from __future__ import annotations

from data_modules.batches.data_module import FusionDataModule
from data_modules.card import DataCard

CITATION = "Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, LRE 42 (2008)."
LICENCE = "By signed request to its owner, USC SAIL; no redistribution."


class IEMOCAP(FusionDataModule):
    """Batches of MulT's form; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import IEMOCAP
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec("binary", dataset="iemocap")) as path:  # random values, two emotions
        ...     data = IEMOCAP(path, batch_size=4)
        ...     data.setup("fit")
        >>> tuple(next(iter(data.train_dataloader())).target.shape)  # yes or no, for every emotion
        (4, 2)
    """

    key = "iemocap"
    card = DataCard(
        title="IEMOCAP",
        citation=CITATION,
        licence=LICENCE,
        content="Utterances of ten actors in five sessions; neutral, happy, sad and angry as four binary problems.",
        features="MulT pickles: GloVe 300, COVAREP 74, FACET 35; word-aligned (20 steps) or unaligned (20/400/500).",
        splits="standard: 2,717 / 798 / 938 utterances; test is session 1, validation session 2, so speakers differ.",
        defects=(
            "A majority guess already scores acc/F1 0.592/0.440 (neutral), 0.856/0.790 (happy), 0.794/0.703 (sad) and "
            "0.758/0.654 (angry): a model at these numbers has learnt nothing. Audio holds -inf."
        ),
        command="mmbench data import mult PATH/iemocap_data.pkl --dataset iemocap --out data/iemocap.h5",
        task="binary",
    )


class IEMOCAPDialogue(FusionDataModule):
    """Batches of conversation pickles; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import IEMOCAPDialogue
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec("multiclass", dataset="iemocap_erc", dialogue=True)) as path:  # random values
        ...     data = IEMOCAPDialogue(path, batch_size=4, dialogue=True)
        ...     data.setup("validate")
        >>> batch = next(iter(data.val_dataloader()))
        >>> batch.speaker.shape == batch.target.shape == batch.target_mask.shape  # of every utterance
        True
        >>> data.spec.speakers
        2
    """

    key = "iemocap_erc"
    card = DataCard(
        title="IEMOCAP dialogues",
        citation=CITATION,
        licence=LICENCE,
        content=(
            "One of six emotions (happy, sad, neutral, angry, excited, frustrated) per utterance of a dialogue of two "
            "speakers, M and F; or the utterances of the first four, nothing merged. Chance 0.167, majority 0.235."
        ),
        features=(
            "One vector per utterance. dialoguernn: TextCNN 100, openSMILE 100, 3D-CNN 512. mmgcn: 100, openSMILE "
            "IS10 1582, DenseNet of faces 342. roberta (COSMIC): RoBERTa-large 1024 alone."
        ),
        splits=(
            "cosmic: 108 / 12 / 31 dialogues, 5,163 / 647 / 1,623 utterances (four classes 3,274 / 326 / 943); test is "
            "session 5, validation the fixed list of COSMIC, which has the actors of training. file: validation is the "
            "first tenth of the file's list, which depends on the file."
        ),
        defects=(
            "648 happy utterances where the release has 595, most of the rest without a majority of raters. COSMIC "
            "tuned its text encoder on the training part. Many codes choose the epoch on the test part."
        ),
        command="mmbench data import erc PATH/IEMOCAP_features.pkl --out data/iemocap_erc.h5",
        task="multiclass",
        forms=("features", "dialogues"),
    )


class IEMOCAPRaw(FusionDataModule):
    """Batches of the release; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import IEMOCAPRaw
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec("multiclass", ("audio",), dataset="iemocap_raw")) as path:  # random values
        ...     data = IEMOCAPRaw(path, batch_size=8)
        ...     data.setup("fit")
        >>> audio = next(iter(data.train_dataloader())).inputs["audio"]  # all training samples
        >>> data.normalize, bool(audio.values[audio.mask].mean(0).abs().max() < 1e-4)
        ('train', True)
    """

    key = "iemocap_raw"
    normalize_default = "train"
    card = DataCard(
        title="IEMOCAP release",
        citation=CITATION,
        licence=LICENCE,
        content=(
            "10,039 turns of ten actors in 151 dialogs of five sessions; by majority label 4 classes (angry, happy "
            "with excited, sad, neutral: 5,531 turns), 4-strict (happy alone: 4,490) or 6 (excited and frustrated: "
            "7,380). Of the 4, chance is 0.25 and the majority 0.309."
        ),
        features=(
            "Sound by librosa (log-mel or MFCC sequences, standardised by the training split) or as a waveform at 16 "
            "kHz; vision: the speaker's half of the picture every 0.5 s, 224 x 224; transcripts, by a tokenizer."
        ),
        splits=(
            "session5: a session tests, the next validates. speaker10: an actor tests, the partner of the session "
            "validates, so that no dialog of the test part trains. Report plain accuracy and mean recall of the folds."
        ),
        defects=(
            "Neighbouring turns overlap in time, and 2,507 have no majority label. Transcripts hold tags such as "
            "[LAUGHTER]. Results on 4, 4-strict and 6 classes are three different things."
        ),
        command="mmbench data import iemocap_release PATH/IEMOCAP_full_release --out data/iemocap_raw.h5",
        modalities=("text", "audio"),
        task="multiclass",
        forms=("features", "media"),
    )


class IEMOCAPMesm(FusionDataModule):
    """Batches of MESM's form; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from data_modules import IEMOCAPMesm
        >>> from data_modules.toy import make_spec, toy_store
        >>> media = {"audio": "waveform", "vision": "frames"}
        >>> spec = make_spec("multilabel", tuple(media), kinds=media, dataset="iemocap_mesm")
        >>> with toy_store(spec, train=2, held_out=2) as path:  # random values, read while they are asked for
        ...     data = IEMOCAPMesm(path, batch_size=2, workers=0)
        ...     data.setup("validate")
        ...     batch = next(iter(data.val_dataloader()))
        >>> tuple(batch.inputs["vision"].values.shape)  # clips, frames, colours, height, width
        (2, 8, 3, 48, 48)
    """

    key = "iemocap_mesm"
    normalize_default = "train"
    card = DataCard(
        title="IEMOCAP, MESM split",
        citation=f"{CITATION} Split: Dai et al., NAACL 2021, arXiv 2103.09666.",
        licence=LICENCE,
        content="7,380 turns of the release; angry, excited, frustrated, happy, neutral and sad as one-hot labels.",
        features="Waveforms at 16 kHz, the speaker's face every 0.5 s, and transcripts, by a tokenizer.",
        splits=(
            "mesm: 5,162 / 737 / 1,481 turns, drawn at random: all actors and all 151 dialogs are in training and "
            "test, so that results are not comparable with those of other forms."
        ),
        defects=(
            "Published scores use decision thresholds of each emotion, chosen on the validation split. The authors' "
            "reader loses the text before a last colon; the one here does not."
        ),
        command=(
            "mmbench data import iemocap_release PATH/IEMOCAP_full_release --classes mesm --lists PATH/IEMOCAP_split "
            "--audio waveform --vision frames --face detector --size 48 --out data/iemocap_mesm.h5"
        ),
        task="multilabel",
        forms=("media",),
    )
