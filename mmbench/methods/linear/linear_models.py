"""Linear models with an L2 penalty: ridge and logistic regression for a series of strengths, in float64.

All strengths share one singular value decomposition ``x - mean = U S V'``. The penalty does not change under rotation,
so that the coefficients of ``U S``, as many as the rank, are looked for in place of those of ``x``. Ridge regression
then has a closed form. The logistic losses are minimised by Newton's method in a trust region, each step by conjugate
gradients (Lin, Weng and Keerthi, "Trust Region Newton Method for Large-Scale Logistic Regression", JMLR 2008), after
each coefficient was scaled by about the root of its curvature.

The intercepts carry no penalty. Those of the logistic losses have one of 1e-6, which moves none that the data decide,
and keeps that of a class without samples finite.

A strength means what it means in scikit-learn: ``alpha`` of ``Ridge``, ``1 / C`` of ``LogisticRegression``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

Floats = npt.NDArray[np.float64]
Model = tuple[Floats, Floats]
"""Weights ``(K, D)`` and intercepts ``(K,)`` of ``x @ weights.T + intercepts``."""

_INTERCEPT = 1e-6
_STEPS = 500
_GRADIENT = 1e-4
"""Largest norm of the gradient by the scaled coefficients, whose curvature is about 1."""


def ridge(x: Floats, y: Floats, strengths: Iterable[float]) -> list[Model]:
    """Return for each strength the minimum of ``|y - x w' - b|^2 + strength |w|^2``.

    Args:
        x: ``(N, D)`` features.
        y: ``(N, K)`` targets.
        strengths: Positive weights of the penalty.
    """
    left, scale, right, mean = _decomposed(x)
    middle = y.mean(axis=0)
    projected = left.T @ (y - middle)
    weights = [((scale / (scale**2 + strength))[:, None] * projected).T @ right for strength in strengths]
    return [(weight, middle - weight @ mean) for weight in weights]


def logistic(x: Floats, y: Floats, strengths: Iterable[float], *, exclusive: bool) -> list[Model]:
    """Return for each strength the minimum of the logistic loss, summed over samples, plus ``strength / 2 |w|^2``.

    Args:
        x: ``(N, D)`` features.
        y: ``(N, K)`` of zeros and ones.
        strengths: Positive weights of the penalty; each search starts from the result before it.
        exclusive: Whether a sample has one of the ``K`` classes (multinomial loss), or any of ``K`` names, each with a
            logistic loss of its own.
    """
    left, scale, right, mean = _decomposed(x)
    inputs = np.column_stack([left * scale, np.ones(len(y))])
    squares = np.append(scale**2, len(y))[:, None]
    share = y.mean(axis=0)
    curvature = max(float((share * (1 - share)).mean()), 1 / (4 * len(y)))
    found = np.zeros((inputs.shape[1], y.shape[1]))
    models = []
    for strength in strengths:
        penalty = np.append(np.full(len(scale), float(strength)), _INTERCEPT)[:, None]
        size = np.sqrt(curvature * squares + penalty)
        loss = _Scaled(inputs, y, penalty, size, exclusive)
        result = minimize(
            loss.value,
            (found * size).ravel(),
            jac=loss.gradient,
            hessp=loss.curved,
            method="trust-ncg",
            options={"gtol": _GRADIENT, "maxiter": _STEPS},
        )
        found = result.x.reshape(found.shape) / size
        weight = found[:-1].T @ right
        models.append((weight, found[-1] - weight @ mean))
    return models


class _Scaled:
    """The penalised logistic loss as a function of flattened coefficients, each multiplied by its size.

    Args:
        inputs: ``(N, R)``, the last column ones.
        y: ``(N, K)`` of zeros and ones.
        penalty: ``(R, 1)`` strength by row of coefficients.
        size: ``(R, 1)`` by what each row of coefficients is multiplied.
        exclusive: Whether the loss is multinomial.
    """

    def __init__(self, inputs: Floats, y: Floats, penalty: Floats, size: Floats, exclusive: bool) -> None:
        self.inputs, self.y, self.penalty, self.size, self.exclusive = inputs, y, penalty, size, exclusive
        self._seen, self._shares_there = np.empty(0), np.empty(0)

    def _open(self, flat: Floats) -> Floats:
        return flat.reshape(len(self.size), -1) / self.size

    def value(self, flat: Floats) -> float:
        """Return the loss."""
        coefficients = self._open(flat)
        logits = self.inputs @ coefficients
        normed = log_softmax(logits, axis=1) if self.exclusive else logits
        spread = 0.0 if self.exclusive else np.logaddexp(0.0, logits).sum()
        return float(spread - (self.y * normed).sum() + (self.penalty * coefficients**2).sum() / 2)

    def gradient(self, flat: Floats) -> Floats:
        """Return the gradient of the loss."""
        coefficients = self._open(flat)
        slope = self.inputs.T @ (self._shares(flat) - self.y) + self.penalty * coefficients
        return (slope / self.size).ravel()

    def curved(self, flat: Floats, direction: Floats) -> Floats:
        """Return the product of the Hessian at some coefficients and a direction."""
        shares, along = self._shares(flat), self._open(direction)
        moved = self.inputs @ along
        if self.exclusive:
            change = shares * (moved - (shares * moved).sum(axis=1, keepdims=True))
        else:
            change = shares * (1 - shares) * moved
        return ((self.inputs.T @ change + self.penalty * along) / self.size).ravel()

    def _shares(self, flat: Floats) -> Floats:
        """Return ``(N, K)`` probabilities; many products of the Hessian are asked for at one place."""
        if not np.array_equal(flat, self._seen):
            logits = self.inputs @ self._open(flat)
            self._seen = flat.copy()
            self._shares_there = softmax(logits, axis=1) if self.exclusive else expit(logits)
        return self._shares_there


def _decomposed(x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return ``U``, ``S`` and ``V'`` of the centred features, without what is only rounding, and their mean."""
    mean = x.mean(axis=0)
    left, scale, right = np.linalg.svd(x - mean, full_matrices=False)
    rank = int((scale > scale.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps).sum())
    return left[:, :rank], scale[:rank], right[:rank], mean
