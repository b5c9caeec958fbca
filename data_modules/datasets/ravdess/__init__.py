"""RAVDESS: 24 actors speak and sing two sentences in eight emotions."""

from data_modules.datasets.ravdess.data_module import RAVDESS

__all__ = ["RAVDESS"]
