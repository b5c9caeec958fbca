"""IEMOCAP: ten actors in five sessions of dialogues, in the four forms of its literature."""

from data_modules.datasets.iemocap.data_module import IEMOCAP, IEMOCAPDialogue, IEMOCAPMesm, IEMOCAPRaw

__all__ = ["IEMOCAP", "IEMOCAPDialogue", "IEMOCAPMesm", "IEMOCAPRaw"]
