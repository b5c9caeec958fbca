"""Reading a feature store: its header when it is opened, values when they are wanted, its digests on demand."""

from __future__ import annotations

import math
import os
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from data_modules.budget import check_size
from data_modules.schema import DataError, DataSpec
from data_modules.store import verified
from data_modules.store.digests import digests
from data_modules.store.hdf5 import Contents, open_hdf5, reading
from data_modules.store.header import EVERYTHING, FORMAT, SPLITS, VERSION, Array, StoreHeader, read_header

REMEDY = "Remove it and make it again with `mmbench data import`."


class FeatureStore(StoreHeader):
    """A store, open for reading.

    Args:
        path: The HDF5 file.

    Attributes:
        identity: SHA-256 of what the data are; results of one identity may share a board.
        content: SHA-256 of everything in the file but its notes.
        recipes: By modality whose values were computed here how, as plain containers
            (:meth:`data_modules.store.provenance.Recipe.to_dict`).
        origins: By modality with a recipe the ``(N,)`` SHA-256 of what each sample was computed from.
        libraries: By package the version that computed values; empty where nothing was computed.

    Raises:
        DataError: When the file is missing, truncated, foreign, of another format version, or not as it must be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(
                f"There is no store at {self.path}. Make one with `mmbench data import` or `mmbench data synth`."
            )
        try:
            self._state = verified.state(self.path)
            with open_hdf5(self.path, REMEDY) as file:
                super().__init__(**vars(self._header(Contents(self.path, file, REMEDY))))
        except OSError as error:
            raise DataError(
                f"{self.path} is not readable as HDF5 ({error}). It may be truncated or another kind of file: "
                "make it again with `mmbench data import`."
            ) from error

    def _header(self, contents: Contents) -> StoreHeader:
        if contents.attribute("format") != FORMAT:
            raise DataError(
                f"{self.path} is HDF5 but not a feature store. Bring it in with `mmbench data import plain`."
            )
        version = contents.attribute("version")
        if type(version) is not int or version != VERSION:
            newer = isinstance(version, int) and version > VERSION
            raise DataError(
                f"{self.path} has store version {version!r}, this program reads {VERSION}. "
                + ("Use a newer mmbench, or make it" if newer else "Make it")
                + " again from its source with `mmbench data import`, or `mmbench data synth`."
            )
        return read_header(contents)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    def spec(self, protocol: str) -> DataSpec:
        """Return what a method must know, for one split protocol."""
        speakers = len(set(self.speakers) - {""})
        return DataSpec(
            self.dataset,
            self.feature_set,
            protocol,
            self.modalities,
            self.target,
            aligned=self.aligned,
            speakers=speakers,
        )

    def rows(self, protocol: str, fold: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return the rows of each split.

        Raises:
            DataError: When the protocol or the fold does not exist.
        """
        if protocol == EVERYTHING:
            return {name: np.arange(len(self) if name == "test" else 0) for name in SPLITS}
        if protocol not in self.splits:
            raise DataError(f"{self.path} has no split protocol {protocol!r}; it has: {', '.join(self.splits)}.")
        folds = self.splits[protocol]
        if not 0 <= fold < len(folds):
            raise DataError(
                f"Split protocol {protocol!r} of {self.path} has the folds 0 to {len(folds) - 1}, not {fold}."
            )
        return {name: np.flatnonzero(folds[fold] == code) for code, name in enumerate(SPLITS)}

    def read(self, name: str, rows: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return one modality of some samples as ``(sum T, ...)`` values and ``(len(rows) + 1,)`` offsets.

        Raises:
            DataError: When the file is not the one that was opened, cannot be read, or would take too much memory.
        """
        offsets, spec = self.offsets[name], self.modalities[name]
        lengths = offsets[rows + 1] - offsets[rows]
        own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        runs = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1)
        try:
            self._same_file()
            with h5py.File(self.path, "r") as file:
                data = file[f"modalities/{name}/values"]
                shape = (int(own[-1]), *data.shape[1:])
                check_size(self.path, f"{name} of {len(rows)} samples", math.prod(shape) * data.dtype.itemsize)
                values = np.empty(shape, data.dtype)
                for run in runs:
                    if len(run):
                        source = slice(int(offsets[rows[run[0]]]), int(offsets[rows[run[-1]] + 1]))
                        data.read_direct(values, source, slice(int(own[run[0]]), int(own[run[-1] + 1])))
        except DataError:
            raise
        except Exception as error:  # of many types, see data_modules.store.hdf5.reading
            raise DataError(
                f"{self.path} could be opened and cannot be read any more ({name}: {error}). Put it back, or make it "
                "again with `mmbench data import`."
            ) from error
        if spec.kind == "tokens" and len(values) and not (values.min() >= 0 and values.max() < spec.dim):
            raise DataError(f"{self.path} has {name} tokens outside its vocabulary of {spec.dim}. {REMEDY}")
        return values, own

    def _same_file(self) -> None:
        """Refuse a file that was replaced or edited after it was opened; the same content once more is no matter."""
        now = verified.state(self.path)
        if now != self._state:
            try:
                self.verify_once()
            except DataError as error:
                if isinstance(error.__cause__, OSError):  # it is no other file: it cannot be read any more
                    raise error.__cause__ from None
                raise DataError(f"{self.path} was replaced after it was opened: start again.") from error
            self._state = now

    def verify(self) -> None:
        """Compare what is in the file with its digests, reading all of it.

        Raises:
            DataError: When the file was changed after it was made, or replaced after it was opened.
        """
        try:
            before = verified.state(self.path)
            with open_hdf5(self.path, REMEDY) as file, reading(self.path, remedy=REMEDY):
                contents = Contents(self.path, file, REMEDY)
                found = digests(file, contents.texts)
                claimed = str(contents.attribute("identity")), str(contents.attribute("content"))
            after = verified.state(self.path)
        except OSError as error:
            raise DataError(f"{self.path} is damaged ({error}): make it again with `mmbench data import`.") from error
        opened = self.identity, self.content
        if found == claimed != opened:
            raise DataError(f"{self.path} was replaced after it was opened: start again.")
        if not found == claimed == opened:
            raise DataError(
                f"{self.path} was changed after it was made: its identity is {found[0][:12]} and its content "
                f"{found[1][:12]}, and it claims {claimed[0][:12]} and {claimed[1][:12]}. Make it again with "
                "`mmbench data import`."
            )
        if before == after:
            verified.remember(self.path, after, self.content)

    def verify_once(self) -> None:
        """Compare as :meth:`verify` does, unless this very file in this very state has been compared before.

        Raises:
            DataError: When the file was changed after it was made, or replaced after it was opened.
        """
        try:
            same = verified.known(self.path, verified.state(self.path), self.content)
        except OSError as error:
            raise DataError(f"{self.path} is not there any more ({error}). Put it back, or make it again.") from error
        if not same:
            self.verify()
