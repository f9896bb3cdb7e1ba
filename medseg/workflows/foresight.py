"""Tell how much memory and work a case will take, from its header alone, and choose a way that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from medseg.core.errors import MedsegError
from medseg.data.cases import Case
from medseg.data.loading import load_image
from medseg.inference.forecast import (
    Forecast,
    Job,
    choose_way,
    forecast,
    make_job,
    measure_windows,
    read_rss_mb,
)
from medseg.inference.segment import Segmenter
from medseg.inference.trained import TrainedModel
from medseg.inference.windows import plan_windows
from medseg.io import read_geometry, read_voxel_bytes
from medseg.workflows.machine import find_memory

TOO_LARGE = "INFER_MEMORY"
OTHERS = "other cases"  # the part of a forecast that neighbours in flight take
ROOM, SPARE = 0.9, 0.5  # of the free memory, where no limit is given: for all, and for neighbours


def count_windows(model: TrainedModel, cases: Sequence[Case]) -> int:
    """Return how many windows each network will see in all cases, at most; those that fail count nothing."""
    views = 2 ** len(model.plan.mirror_axes) if model.infer.mirror else 1
    count = 0
    for case in cases:
        try:
            if case.images:
                grid = model.grid_shape(read_geometry(case.images[0]))
                count += views * len(plan_windows(grid, model.plan.patch, model.infer.overlap))
        except (MedsegError, OSError):
            continue  # said when its turn comes
    return count


class Foresight:
    """Forecasts for one model; what is held already is read once, before anything is in flight.

    Args:
        segmenter: Of the model.
        memory_gb: What a case and its neighbours may take; None: most of what is free, where that is known.
        tell: Gets a line a case.
        overlaps: Whether neighbours may be in memory beside a case, where there is room.
        has_maps: Whether maps of uncertainty are written too.
        has_probabilities: Whether probabilities are.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        memory_gb: float | None,
        tell: Callable[[str], None] | None = None,
        *,
        overlaps: bool = False,
        has_maps: bool = False,
        has_probabilities: bool = False,
    ) -> None:
        self._segmenter = segmenter
        self._is_asked = memory_gb is not None
        self._free_mb = find_memory()[1] * 1024
        self._cap_mb = memory_gb * 1024 if memory_gb is not None else None
        if not self._is_asked and self._free_mb > 0:
            self._cap_mb = read_rss_mb() + ROOM * self._free_mb
        self._tell = tell
        self._windows_mb = cache(self._measure)
        self._overlaps, self._has_maps, self._has_probabilities = overlaps, has_maps, has_probabilities
        self._seen: dict[str, tuple[Job, Forecast] | MedsegError | OSError] = {}

    def __call__(self, case: Case, before: Case | None = None, after: Case | None = None) -> Forecast:
        """Return the forecast of the fastest way that fits, its neighbours a part of it if they fit too.

        Raises:
            DataError: The case is bad already, or its header cannot be read.
            ResourceError: INFER_MEMORY, where no way fits.
        """
        job, found = self._look(case)
        if self._overlaps:
            found = self._add_others(found, before, after)
        if self._tell is not None:
            self._tell(f"{case.id}: {self._segmenter.plan(job.grid).describe()}")
            self._tell(f"{case.id}: {found.describe()}")
        return found

    def count_windows(self, case: Case) -> int:
        """Return how many windows a case has, at most: a measure of its work; 1 for one that fails."""
        try:
            return len(self._segmenter.plan(self._look(case)[0].grid))
        except (MedsegError, OSError):
            return 1

    def _look(self, case: Case) -> tuple[Job, Forecast]:
        if case.id not in self._seen:
            try:
                self._seen[case.id] = self._forecast(case)
            except (MedsegError, OSError) as error:
                self._seen[case.id] = error
        seen = self._seen[case.id]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def _forecast(self, case: Case) -> tuple[Job, Forecast]:
        model = self._segmenter.model
        if case.error is not None or not case.images:
            load_image(case, len(model.data.channels))  # says what is wrong
        scan = case.images[0]
        job = make_job(
            read_geometry(scan),
            model,
            read_voxel_bytes(scan),
            has_maps=self._has_maps,
            has_probabilities=self._has_probabilities,
        )
        if not self._is_asked and self._tell is None:  # measuring takes the time of some windows
            rough = forecast(self._segmenter, job, self._segmenter.way, self._bound)
            if self._cap_mb is None or rough.peak_mb <= self._cap_mb:
                return job, rough
        return job, choose_way(self._segmenter, job, self._cap_mb, self._windows_mb, is_asked=self._is_asked)

    def _bound(self, count: int) -> float:
        return count * self._segmenter.window_mb_at_most

    def _add_others(self, own: Forecast, before: Case | None, after: Case | None) -> Forecast:
        """Count the case that is read ahead and the one that is being written, if there is room for both."""
        others_mb = 0.0
        for case, is_ahead in ((before, False), (after, True)):
            try:
                other = self._look(case)[1] if case is not None else None
            except (MedsegError, OSError):
                continue  # it fails before it takes memory
            if other is not None:
                others_mb += max(other.loading_mb, other.parts_mb["image"]) if is_ahead else other.writing_mb
        # The case's own mask is cleaned while the next is predicted: that may be its largest phase.
        shared = replace(
            own, parts_mb={**own.parts_mb, OTHERS: others_mb}, writing_mb=own.writing_mb + others_mb
        )
        fits = self._is_asked or others_mb <= SPARE * self._free_mb
        return shared if fits and (self._cap_mb is None or shared.peak_mb <= self._cap_mb) else own

    def _measure(self, count: int) -> float:
        limit_mb = None if self._cap_mb is None else self._cap_mb - read_rss_mb()
        return measure_windows(self._segmenter, count, limit_mb)
