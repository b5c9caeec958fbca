"""What every method must pass, for the tests of methods that live elsewhere (needs pytest).

A class in a test file of yours is all it takes; ``mmbench test-method my_fusion`` runs the same without a file::

    from mmbench.testing import MethodTests

    class TestMyFusion(MethodTests):
        methods = ("my_fusion",)

:mod:`mmbench.testing.builders` makes small specs, batches and stores for tests of your own.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("mmbench.testing.matrix", "mmbench.testing.cases")

from mmbench.testing.matrix import MethodTests  # noqa: E402 # after its assertions were registered

__all__ = ["MethodTests"]
