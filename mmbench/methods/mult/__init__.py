"""MulT: every modality is enriched by every other through its own crossmodal transformer.

Paper: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019, arXiv 1906.00295. Official code: yaohungt/Multimodal-Transformer (MIT); read and rewritten.

Steps: a convolution brings each modality to width ``d`` (equation 1) and sinusoidal positions are added (equation 2).
For each ordered pair an encoder whose queries are the target and whose keys and values are always the low-level source
reads one modality into another (equations 3 and 4). What a target got from its sources is concatenated and read by a
self-attention encoder; its last step is the target's state (section 3.2). The states, concatenated, go through one
residual network to the prediction. The loss is the task's alone. Deviations: see the card.

Shapes: inputs ``(B, T_m, D_m)`` with their own ``T_m``; crossmodal outputs ``(B, T_target, d)``; state of a target
``(B, (M - 1) d)`` for M modalities; prediction ``(B, outputs)``.
"""

from __future__ import annotations

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.mult.config import MulTConfig
from mmbench.methods.mult.network import MulTNetwork
from mmbench.tasks import Task

_DBF = "Denoising Bottleneck with Mutual Information Maximization (2023), row MulT of "
_ISSUE = "paper, as quoted in issue 8 of the official repository"


def _published(track: str, source: str, *values: float) -> tuple[PublishedResult, ...]:
    """Return one result per metric; the official F1 is weighted by predicted class."""
    names = ("acc7", "acc2_non0", "f1_non0_swapped", "mae", "corr")
    return tuple(PublishedResult(track, name, value, source) for name, value in zip(names, values, strict=True))


class MulT(FusionMethod):
    """Directional pairwise crossmodal transformers.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mult import MulT
        >>> spec = make_spec(modalities=("text", "audio"))
        >>> model = MulT(spec)
        >>> list(model.network.crossmodal)  # who is read by whom
        ['audio_to_text', 'text_to_audio']
        >>> tuple(model(make_batch(spec)).prediction.shape)
        (4, 1)
    """

    card = MethodCard(
        title="MulT: Multimodal Transformer for Unaligned Multimodal Language Sequences",
        authors="Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov",
        year=2019,
        venue="ACL 2019",
        arxiv="1906.00295",
        code="yaohungt/Multimodal-Transformer@a670936824ee722c8494fd98d204977a1d663c7a",
        fidelity="official-code",
        deviations=(
            "Padding is masked: attention skips it, positions count from the first real step, the future mask goes "
            "by the lengths of each sample and the last real step is pooled; padding=left gives the official "
            "behaviour, where zero steps take part and the padded length changes the result.",
            "The residual adds the un-normalised stream, as the official code does and the paper's equation does not.",
            "The convolution kernel is 1 as in the official code; larger kernels keep the length by zero padding.",
            "A single-target model (only) builds just the memory encoder that it uses, where the official one builds "
            "all three; a projection that the official code builds but skips is not built.",
            "Two modalities, which the paper does not treat, give one crossmodal encoder per direction and memory "
            "encoders of width d.",
            "The learning rate falls on plateaus of the validation metric that selects instead of the validation "
            "loss; the two are the same for regression.",
        ),
        published=(
            *_published("mosi/aligned_50/standard", _DBF + "table 1", 0.400, 0.830, 0.828, 0.871, 0.698),
            *_published(
                "mosei/aligned_50/standard",
                _DBF + "table 2 (Acc-2 and F1 are printed in reverse)",
                0.518,
                0.825,
                0.823,
                0.580,
                0.703,
            ),
            *_published("mosei/unaligned_50/standard", _ISSUE, 0.507, 0.816, 0.816, 0.591, 0.694),
        ),
        needs=Needs(at_least=2),
    )

    Config = MulTConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        if self.config.only and self.config.only not in spec.modalities:
            have = ", ".join(spec.modalities)
            raise ConfigError(f"{self.config.where('only')} is {self.config.only!r}; {spec.track} has {have}.")
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = MulTNetwork(self.dims, self.task.outputs, self.config, steps)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
