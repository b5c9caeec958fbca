"""Penalised linear models against scikit-learn, and where there is nothing to learn from."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge

from mmbench.methods.linear.linear_models import logistic, ridge

STRENGTHS = (1e4, 10.0, 1.0, 1e-2)


def correlated(samples, width, seed=0):
    """Return features of unequal scale that hang together, away from 0."""
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, width)) @ random.normal(size=(width, width)) + 2, random


# More features than samples, too: then the coefficients of most directions are 0.
@pytest.mark.parametrize(("samples", "width"), [(120, 9), (40, 70)])
class TestAgainstScikitLearn:
    def test_ridge(self, samples, width):
        x, random = correlated(samples, width)
        y = x[:, :2] + random.normal(size=(samples, 2)) + 5
        for strength, (weight, bias) in zip(STRENGTHS, ridge(x, y, STRENGTHS), strict=True):
            expected = Ridge(alpha=strength).fit(x, y)
            np.testing.assert_allclose(weight, expected.coef_, rtol=1e-6, atol=1e-10)
            np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-6)

    def test_classes(self, samples, width):
        x, random = correlated(samples, width)
        classes = (x[:, :3] + 2 * random.normal(size=(samples, 3))).argmax(1)
        for strength, (weight, bias) in zip(
            STRENGTHS, logistic(x, np.eye(3)[classes], STRENGTHS, exclusive=True), strict=True
        ):
            expected = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=50_000).fit(x, classes)
            found = softmax(x @ weight.T + bias, axis=1)
            np.testing.assert_allclose(found, expected.predict_proba(x), atol=5e-5)

    def test_names(self, samples, width):
        x, random = correlated(samples, width)
        names = x[:, :2] + 2 * random.normal(size=(samples, 2)) > 2
        models = logistic(x, names.astype(float), STRENGTHS, exclusive=False)
        for strength, (weight, bias) in zip(STRENGTHS, models, strict=True):
            for name in range(2):
                expected = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=50_000).fit(x, names[:, name])
                found = expit(x @ weight[name] + bias[name])
                np.testing.assert_allclose(found, expected.predict_proba(x)[:, 1], atol=5e-5)


def test_a_class_without_samples_is_never_predicted_and_finite():
    x, random = correlated(60, 4)
    classes = random.integers(0, 2, 60)
    (weight, bias), *_ = logistic(x, np.eye(3)[classes], (1.0,), exclusive=True)
    assert np.isfinite(weight).all()
    assert softmax(x @ weight.T + bias, axis=1)[:, 2].max() < 1e-3
    (weight, bias), *_ = logistic(x, np.zeros((60, 1)), (1.0,), exclusive=False)
    assert expit(x @ weight.T + bias).max() < 1e-3


@pytest.mark.parametrize("samples", [1, 6])
def test_features_that_say_nothing_leave_the_shares(samples):
    """Constant features; with one sample every feature is constant."""
    x, classes = np.full((samples, 3), 7.0), np.arange(samples) % 2
    (weight, bias), *_ = ridge(x, np.arange(samples, dtype=float)[:, None], (1.0,))
    assert bias.item() == pytest.approx((samples - 1) / 2)
    assert not weight.any()
    (weight, bias), *_ = logistic(x, np.eye(2)[classes], (1.0,), exclusive=True)
    assert not weight.any()
    np.testing.assert_allclose(softmax(bias), np.bincount(classes, minlength=2) / samples, atol=1e-3)
