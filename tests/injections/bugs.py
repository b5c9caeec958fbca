"""The known bugs: one per part of training and of what all methods share, and one per mechanism of a method."""

from __future__ import annotations

from tests.injections.bug import METHODS, NN, Bug
from tests.injections.method_bugs import OF_METHODS

BASE, STEPPING = f"{METHODS}/base.py", f"{METHODS}/stepping.py"
CALLBACKS, TRAINING = "mmbench/runner/callbacks.py", "mmbench/runner/training.py"

OF_TRAINING = (
    Bug(
        "no weight decay",
        STEPPING,
        "weight_decay=self.config.weight_decay, fused=True",
        "weight_decay=0.0, fused=True",
        (("ci", "lf_dnn"),),
    ),
    Bug("no clipping of gradients", STEPPING, "if self.config.gradient_clip:", "if False:", (("ci", "mult"),)),
    Bug(
        "gradients of earlier steps are kept",
        STEPPING,
        "        if not self._pending:\n            self.zero_grad",
        "        if not self._means.means():\n            self.zero_grad",
        (("ci", "late_fusion"),),
    ),
    Bug(
        "the learning rate stays on a plateau",
        STEPPING,
        "            scheduler.step(selected)",
        "            pass",
        (("ci", "mmmie"),),
        ("tests/runner/test_trial.py",),
    ),
    Bug(
        "terms of the loss are means over batches",
        STEPPING,
        "self._means.add(name, term.detach() * batch.size, batch.size)",
        "self._means.add(name, term.detach(), 1)",
        (("ci", "late_fusion"),),
    ),
    Bug(
        "what a step leaves behind is lost",
        STEPPING,
        "        self.observe(output, batch)",
        "        pass",
        (),
        ("tests/methods/cmc/test_training.py",),
    ),
    Bug(
        "cmc: pairs are counted where several seeds are computed",
        f"{METHODS}/cmc/__init__.py",
        "            output.fed =",
        "            self._fed = self._fed + member.sum((1, 2))\n            output.fed =",
        (),
        ("tests/test_seeds_at_once.py",),
    ),
    Bug(
        "the text encoder is always frozen",
        BASE,
        "frozen=self.config.text_lr == 0",
        "frozen=True",
        (("ci-words", "late_fusion"),),
    ),
    Bug(
        "the text encoder learns as fast as all else",
        f"{METHODS}/stepping.py",
        'without(learning, rest), "lr": self.config.text_lr}',
        "without(learning, rest)}",
        (("ci-words", "late_fusion"),),
    ),
    Bug(
        "thresholds of labels stay at one half",
        f"{METHODS}/scoring.py",
        "            self.thresholds.copy_(fit_thresholds(prediction, target))",
        "            pass",
        (("ci-labels", "late_fusion"),),
    ),
    Bug(
        "the worst epoch is selected",
        CALLBACKS,
        'value > self.value if self.mode == "max" else value < self.value',
        'value < self.value if self.mode == "max" else value > self.value',
        (("ci", "late_fusion"),),
    ),
    Bug(
        "epochs that prepare are selected",
        CALLBACKS,
        "        if self.counts(trainer):\n            value",
        "        if True:\n            value",
        (("ci", "mvcl"),),
        ("tests/methods/test_phases.py",),
    ),
    Bug(
        "the last epoch is tested, not the selected one",
        TRAINING,
        'model.load_state_dict(best["state_dict"])',
        "pass",
        (("ci", "lmf"), ("ci", "vcan_feature")),
        ("tests/runner/test_trial.py",),
    ),
    Bug(
        "every epoch draws the same dropout",
        CALLBACKS,
        "self.seed * 10_007 + trainer.current_epoch",
        "self.seed * 10_007",
        (("ci", "late_fusion"),),
    ),
    Bug(
        "patience never ends a training",
        CALLBACKS,
        "        if self.counts(trainer):\n            super()",
        "        if False:\n            super()",
        (("ci-classes", "late_fusion"),),
        ("tests/runner/test_trial.py",),
    ),
    Bug(
        "training samples are not shuffled",
        "data_modules/batches/data_module.py",
        'options |= {"shuffle": True, "seed"',
        'options |= {"shuffle": False, "seed"',
        (("ci", "late_fusion"),),
    ),
    Bug(
        "dropout in evaluation",
        f"{NN}/dropout.py",
        "    if not training or not p:",
        "    if not p:",
        (("ci", "late_fusion"),),
    ),
    Bug(
        "dropout does not scale what it keeps",
        f"{NN}/dropout.py",
        "_Kept.apply(x, kept, 1 / (1 - dropped / 2**BITS))",
        "_Kept.apply(x, kept, 1.0)",
        (("ci", "late_fusion"), ("ci", "mult")),
        ("tests/nn/test_dropout.py",),
    ),
)

OF_SEQUENCES = (
    Bug(
        "mult attends to padding",
        f"{METHODS}/mult/network.py",
        "            layout = Layout.of(sequence)\n",
        "            layout = Layout.of_all(sequence.values)\n",
        (("ci", "mult"),),
    ),
    Bug(
        "cmc attends to padding",
        f"{METHODS}/cmc/network.py",
        "        layout = Layout.of(sequence)\n",
        "        layout = Layout.of_all(sequence.values)\n",
        (("ci", "cmc"),),
    ),
    Bug(
        "the first step is taken for the last",
        f"{NN}/steps.py",
        "rows.index_select(0, self.starts + self.lengths - 1)",
        "rows.index_select(0, self.starts)",
        (("ci", "mib"),),
    ),
    Bug(
        "a mean over time counts padding",
        f"{NN}/steps.py",
        "count = self.lengths if real is None",
        "count = torch.full_like(self.lengths, self.steps) if real is None",
        (("ci", "cold_fusion"),),
    ),
    Bug(
        "no positions in mult",
        f"{NN}/transformer.py",
        "* x + position_rows(x, layout, positions)",
        "* x",
        (("ci", "mult"),),
    ),
    Bug(
        "mult sees the future",
        f"{METHODS}/mult/network.py",
        'c.padding == "left", c.causal_mask, c.pooling',
        'c.padding == "left", False, c.pooling',
        (("ci", "mult"),),
    ),
    Bug(
        "missing steps are not emptied",
        "data_modules/batches/corruption.py",
        "    corrupted[~kept] = unknown",
        "    pass",
        (("ci-missing", "late_fusion"),),
    ),
    Bug(
        "features are standardised by what is tested",
        "data_modules/batches/data_module.py",
        '            self.rows["train"],\n            self.normalize,',
        '            self.rows["test"],\n            self.normalize,',
        (),
        ("tests/data_modules/batches/test_data_module.py",),
    ),
)

OF_PROCESSES = (
    Bug(
        "rows of processes lie one process after the other",
        f"{NN}/gathering.py",
        "torch.stack(shards, dim=1)",
        "torch.stack(shards, dim=0)",
        (),
        ("tests/test_gathering.py",),
    ),
    Bug(
        "gathered rows learn from the loss of their own process alone",
        f"{NN}/gathering.py",
        "        dist.all_reduce(total)\n",
        "",
        (),
        ("tests/test_gathering.py",),
    ),
    Bug(
        "batch statistics are those of one process",
        f"{NN}/norms.py",
        "if self.training and self.gathers:",
        "if False:",
        (),
        ("tests/test_gathering.py",),
    ),
    Bug(
        "cmc: every process pairs as it draws",
        f"{METHODS}/cmc/__init__.py",
        "first, second = agreed(first), agreed(second)",
        "pass",
        (),
        ("tests/test_gathering.py",),
    ),
)

BUGS = (*OF_TRAINING, *OF_SEQUENCES, *OF_PROCESSES, *OF_METHODS)
"""All of them."""
