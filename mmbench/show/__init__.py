"""All there is to know of a method, a data set or a trial, in parts. Pure functions; nothing is printed here."""

from mmbench.show.dataset import show_dataset
from mmbench.show.method import settings, show_method
from mmbench.show.parts import Part
from mmbench.show.trial import find_records, show_trial

__all__ = ["Part", "find_records", "settings", "show_dataset", "show_method", "show_trial"]
