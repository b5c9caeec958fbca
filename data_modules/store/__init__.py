"""The feature store: one HDF5 file per data set and feature set, written once and read by everything else.

Layout (format version 2)::

    attrs            format, version, dataset, feature_set, target, modalities, aligned, notes, repairs, recipes,
                     libraries, identity, content
    ids, groups, speakers, transcripts    (N,) strings
    targets                               (N,) or (N, C)
    modalities/<name>/values              (sum T, D) ragged, no padding; (sum T,) token ids or samples of sound,
                                          (sum T, C, H, W) frames
    modalities/<name>/offsets             (N + 1,) first row of each sample
    modalities/<name>/origins             (N,) SHA-256 of what each sample was computed from, where there is a recipe
    splits/<protocol>/<fold>              (N,) int8: 0 train, 1 valid, 2 test, -1 unused

The *identity* says what the data are and is part of every result made from the file; the *content* tells when the file
was changed after it was made (:mod:`data_modules.store.digests`).
"""

from data_modules.store.header import EVERYTHING, FORMAT, SPLITS, UNUSED, Array, SplitTables, check_protocol
from data_modules.store.new_store import check_output
from data_modules.store.provenance import Recipe
from data_modules.store.read import FeatureStore
from data_modules.store.sample import UNLABELLED, Sample, StoreInfo
from data_modules.store.write import write_store

__all__ = [
    "EVERYTHING",
    "FORMAT",
    "SPLITS",
    "UNLABELLED",
    "UNUSED",
    "Array",
    "FeatureStore",
    "Recipe",
    "Sample",
    "SplitTables",
    "StoreInfo",
    "check_output",
    "check_protocol",
    "write_store",
]
