"""Where test predictions come from: the tables beside the records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mmbench.report.judgement import Evidence
from mmbench.runner.predictions import Predictions, PredictionsError, read_predictions
from mmbench.runner.records import Records, predictions_path


def evidence_of(sources: Sequence[Records]) -> Evidence:
    """Return what reads the predictions of a record from the first folder that holds just these.

    Args:
        sources: Folders of records, one's own first.
    """

    @cache
    def read(track: str, method: str, key: str, digest: str) -> Predictions:
        for source in sources:
            path = predictions_path(source.root / track / method / f"{key}.json")
            if path.is_file():
                found, own = read_predictions(path)
                if own == digest:
                    return found
        raise PredictionsError(f"the predictions of {track}/{method}/{key} are not there")

    return lambda record: read(record.track, record.method, record.id, record.predictions)
