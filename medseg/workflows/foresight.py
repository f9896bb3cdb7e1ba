"""Tell how much memory a case will take, from its header alone, and choose a way that fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from medseg.data.cases import Case
from medseg.inference.forecast import Forecast, choose_way, make_job, measure_windows
from medseg.inference.segment import Segmenter
from medseg.io import read_geometry, read_voxel_bytes

TOO_LARGE = "INFER_MEMORY"


class Foresight:
    """Forecasts for one model.

    Args:
        segmenter: Of the model.
        memory_gb: What a case may take; None: no limit.
        tell: Gets a line a case.
    """

    def __init__(
        self, segmenter: Segmenter, memory_gb: float | None, tell: Callable[[str], None] | None = None
    ) -> None:
        self._segmenter = segmenter
        self._cap_mb = None if memory_gb is None else memory_gb * 1024
        self._tell = tell
        self._windows_mb = cache(partial(measure_windows, segmenter))

    def __call__(self, case: Case) -> Forecast:
        """Return the forecast of the fastest way that fits.

        Raises:
            DataError: The case is bad already, or its header cannot be read.
            ResourceError: INFER_MEMORY, where no way fits.
        """
        if case.error is not None:
            raise case.error
        segmenter = self._segmenter
        model, scan = segmenter.model, case.images[0]
        job = make_job(read_geometry(scan), model, read_voxel_bytes(scan))
        found = choose_way(segmenter, job, self._cap_mb, self._windows_mb)
        if self._tell is not None:
            self._tell(f"{case.id}: {segmenter.plan(job.grid).describe()}")
            self._tell(f"{case.id}: {found.describe()}")
        return found
