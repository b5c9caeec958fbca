"""What the tests of CMC share: small methods and batches, and the correlation loss by naive loops."""

from __future__ import annotations

from dataclasses import replace

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.cmc import CMC
from mmbench.testing.builders import make_batch, make_spec

SURE = {"attention_dropout": 0.0, "relu_dropout": 0.0, "residual_dropout": 0.0, "embed_dropout": 0.0}
SMALL = {"dim": 8, "heads": 2, "layers": 1, **SURE}


def build(kind="regression", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return CMC(make_spec(kind, modalities), config=CMC.Config(**{**SMALL, **settings}))


def sample(size=12, kind="regression", modalities=MODALITIES, seed=0, phase=""):
    return replace(make_batch(make_spec(kind, modalities), size, seed), phase=phase)


def terms_of(method, batch, seed=5):
    """Return the terms of the loss; the seed decides the pairs."""
    output = method(batch)
    torch.manual_seed(seed)
    terms = method.objective(output, batch)
    method.observe(output, batch)
    return terms


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def naive(method, batch, remembered=None, seed=5):
    """Return the correlation loss by loops, with the pairs of the seed, and the losses by bucket.

    Args:
        method: The method.
        batch: The batch.
        remembered: By identity the cached vectors ``(M, D)``; None while pre-training.
        seed: As in :func:`terms_of`.
    """
    c, named = method.config, method(batch).named
    names, level = list(method.dims), int(method.level)
    torch.manual_seed(seed)
    fed, buckets = [], {bucket: [] for bucket in range(c.levels)}
    couples = method.network.couples.items()
    for (couple, (x, y)), first, second in zip(couples, *method.sampler(batch.size, len(couples)), strict=True):
        kinds = {True: [], False: []}
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            target = (abs(float(batch.target[i] - batch.target[j])) + 0.1) / 6.1 if i != j else 0.0
            said = method.network.predictors[couple](named[f"h_{x}"][[i]], named[f"h_{y}"][[j]])
            loss = abs(said.item() - target)
            hard, ids = loss, batch.index.tolist()
            if remembered is not None and ids[i] in remembered and ids[j] in remembered:
                left, right = remembered[ids[i]][[names.index(x)]], remembered[ids[j]][[names.index(y)]]
                before = abs(method.scorer.frozen[couple](left, right).item() - target)
                hard = (1 - c.mix) * before + c.mix * loss
            kinds[i == j].append((hard, loss))
        for pairs in kinds.values():
            if remembered is None:
                fed += [loss for _, loss in pairs]
                continue
            kept = sorted(pairs)[: len(pairs) - int(len(pairs) * c.discard + 1e-9)]
            for rank, (_, loss) in enumerate(kept):
                bucket = rank * c.levels // len(kept)
                if bucket < level:
                    buckets[bucket].append(loss)
                    fed.append(loss)
    return sum(fed) / len(fed), buckets


def remembering(**settings):
    """Return a method with other weights than it remembers, a batch, and by identity what it remembers of a part."""
    method, batch = build(**settings).train(), sample(phase="main")
    known = [row for row in range(12) if row not in (3, 7)]
    vectors = torch.randn(10, 3, 8)
    method.scorer.remember(method.network.predictors, batch.index[known], vectors)
    for predictor in method.network.predictors.parameters():
        torch.nn.init.normal_(predictor, std=0.3)
    return method, batch, dict(zip(batch.index[known].tolist(), vectors, strict=True))
