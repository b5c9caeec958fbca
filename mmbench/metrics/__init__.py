"""Evaluation conventions of multimodal sentiment and emotion recognition.

A pure function per family scores whole arrays; a :class:`SplitMetric` collects the arrays over batches and processes.
"""

from mmbench.metrics.affect import affect_metrics
from mmbench.metrics.base import SplitMetric
from mmbench.metrics.binary import binary_metrics, decision_metrics
from mmbench.metrics.calibration import calibration_error, calibration_metrics
from mmbench.metrics.classification import multiclass_metrics
from mmbench.metrics.families import DESCRIPTIONS, METRICS, MultilabelMetric, build_metric
from mmbench.metrics.info import MetricInfo
from mmbench.metrics.multilabel import fit_thresholds, multilabel_metrics
from mmbench.metrics.regression import concordance, mean_absolute_error, pearson
from mmbench.metrics.robustness import auilc
from mmbench.metrics.sentiment import (
    SENTIMENT_LEGACY_INFO,
    sentiment_legacy_metrics,
    sentiment_metrics,
    sims_metrics,
)

__all__ = [
    "DESCRIPTIONS",
    "METRICS",
    "SENTIMENT_LEGACY_INFO",
    "MetricInfo",
    "MultilabelMetric",
    "SplitMetric",
    "affect_metrics",
    "auilc",
    "binary_metrics",
    "build_metric",
    "calibration_error",
    "calibration_metrics",
    "concordance",
    "decision_metrics",
    "fit_thresholds",
    "mean_absolute_error",
    "multiclass_metrics",
    "multilabel_metrics",
    "pearson",
    "sentiment_legacy_metrics",
    "sentiment_metrics",
    "sims_metrics",
]
