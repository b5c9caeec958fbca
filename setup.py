"""What ``pyproject.toml`` cannot say: the packages that are found, and ``benchmarks/`` as one of them."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mmbench*", "data_modules*"]), "mmbench.benchmarks"])
