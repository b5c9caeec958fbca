"""Settings of Emotion-Shift."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import MethodConfig, setting


@dataclass(frozen=True)
class EmotionShiftConfig(MethodConfig):
    """Settings of Emotion-Shift; the defaults are those of the official code."""

    batch_size: int = setting(128, "dialogues per step", low=1)
    lr: float = setting(1e-4, "learning rate", low=0.0)
    weight_decay: float = setting(1e-4, "L2 penalty inside Adam", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0)
    text_lr: float = setting(0.0, "learning rate of the text encoder; 0 freezes it", low=0.0)
    use_shift: bool = setting(True, "whether shifts gate the states; false is the base model, with GRU cells")
    backward_gate: str = setting(
        "shifted",
        "what gates the reversed nets: the shift to the utterance that follows, nothing (a GRU cell), or the "
        "official zero, which leaves them dead",
        choices=("shifted", "plain_gru", "legacy_zero"),
    )
    shift_scope: str = setting(
        "dialogue",
        "the utterance before: of anybody in the dialogue, or of the same speaker",
        choices=("dialogue", "same_speaker"),
    )
    groups: str = setting(
        "valence",
        "between what emotion shifts: pleasant and unpleasant classes, or all classes",
        choices=("valence", "classes"),
    )
    shift_weight: float = setting(1.0, "weight of the shift loss; 0 leaves it out", low=0.0)
    balanced: bool = setting(True, "whether classes and shifts weigh by their inverse frequency in training data")
    siamese_epochs: int = setting(3, "epochs that prepare the detector; 0 for none", low=0)
    siamese_lr: float = setting(2e-5, "learning rate of the preparation", low=0.0)
    own_encoder: bool = setting(
        True, "whether text tokens are read for the detector by a second encoder, which the preparation trains"
    )
    attn_mask: bool = setting(True, "whether padding is hidden from the attention between modalities")
    context: int = setting(150, "width of the state of the dialogue", low=1)
    party: int = setting(150, "width of the state of a party", low=1)
    emotion: int = setting(100, "width of the state of emotion", low=1)
    hidden: int = setting(100, "half the width in which modalities meet", low=1)
    dropout_recurrent: float = setting(0.1, "dropout on new states", low=0.0, high=1.0)
    dropout_states: float = setting(0.65, "dropout on the states of emotion that are read", low=0.0, high=1.0)
    dropout: float = setting(0.5, "dropout on what the modalities show each other", low=0.0, high=1.0)
