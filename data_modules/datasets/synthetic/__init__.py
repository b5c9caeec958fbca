"""Generated data sets: sequences, dialogues and clips, whose best reachable scores are known or bounded."""

from data_modules.datasets.synthetic.data_module import Synthetic, SyntheticClips, SyntheticDialogues

__all__ = ["Synthetic", "SyntheticClips", "SyntheticDialogues"]
