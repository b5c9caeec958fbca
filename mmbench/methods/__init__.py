"""The methods, a file or a folder each.

The registry is what is there: every module of this package that defines a :class:`FusionMethod` with the module's own
name (``late_fusion.py`` defines ``LateFusion``, the folder ``cmc`` defines ``CMC``) is a method, and nothing else has
to be edited to add one. Methods from elsewhere are plug-in files and entry points; see
:mod:`mmbench.methods.registry`.
"""

from __future__ import annotations

from data_modules.batches.phases import Phase
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.registry import broken_methods, method, methods

__all__ = [
    "ConfigError",
    "FusionMethod",
    "MethodCard",
    "MethodConfig",
    "Needs",
    "Output",
    "Phase",
    "PublishedResult",
    "broken_methods",
    "method",
    "methods",
    "setting",
]
