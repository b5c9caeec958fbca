"""mmbench: which multimodal fusion method is better, on which data, by how much, at what cost."""

__version__ = "0.1.0"
