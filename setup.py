"""What of the package ``pyproject.toml`` cannot say: the shipped settings lie beside it and are installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mmbench*", "data_modules*"]), "mmbench.benchmarks"],
    package_dir={"mmbench.benchmarks": "benchmarks"},
    package_data={"mmbench.benchmarks": ["suites/*.yaml", "methods/*.yaml", "baselines/*.json"]},
)
