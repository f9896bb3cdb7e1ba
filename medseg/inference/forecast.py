"""How much memory a case will take, told before anything of it is read.

Three phases follow each other: the scan is read and preprocessed, windows are predicted and exported, the
mask is cleaned and written. The peak is what the process holds before, and the largest of the three.

Shape legend: see `medseg.inference.predict`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.inference.export import PART
from medseg.inference.layers import BLOCK
from medseg.inference.network import small_window
from medseg.inference.way import Way
from medseg.inference.windows import Triple

if TYPE_CHECKING:
    from medseg.inference.segment import Segmenter
    from medseg.inference.trained import TrainedModel

WindowsMb = Callable[[int], float]

MB = 1 << 20
LOOK_S = 0.001  # between two looks at the resident set
POSTPROCESS_BYTES = 14  # a voxel: components as int32, their number and masks while a step runs
MAP_BYTES = 4  # a preprocessed voxel: entropy and disagreement in half precision
MAPS_BYTES = 20  # a stored voxel: both maps in float32, and three copies while one of them is restored
PART_COPIES = 4  # arrays of the size of a part that a thread makes probabilities with
PACKING_MB = 32  # while probabilities are compressed: a piece, and it in the file's order
TASK_COPIES = 2  # arrays of a block's size that a thread of the export holds at once


@dataclass(frozen=True)
class Job:
    """What of a case decides its memory.

    Args:
        channels: Of the image.
        voxel_bytes: Of a stored voxel.
        value_bytes: Of a preprocessed one.
        scan: (3,) voxels as stored.
        grid: (3,) voxels after preprocessing, at most: cropping is not known from a header.
        has_maps: Whether maps of uncertainty are written too.
        has_probabilities: Whether probabilities are.
    """

    channels: int
    voxel_bytes: int
    value_bytes: int
    scan: tuple[int, int, int]
    grid: tuple[int, int, int]
    has_maps: bool = False
    has_probabilities: bool = False


@dataclass(frozen=True)
class Forecast:
    """Memory of one case in MB.

    Args:
        way: How it will be predicted.
        parts_mb: Name -> MB, of what is held while windows are predicted; "process" is there before.
        loading_mb, writing_mb: Of the phases before and after, beside "process".
    """

    way: Way
    parts_mb: dict[str, float]
    loading_mb: float
    writing_mb: float

    @property
    def peak_mb(self) -> float:
        """Largest resident set."""
        process = self.parts_mb["process"]
        predicting = sum(self.parts_mb.values()) - process
        return process + max(predicting, self.loading_mb, self.writing_mb)

    def describe(self) -> str:
        """Return the forecast in one line."""
        parts = {**self.parts_mb, "reading": self.loading_mb, "cleaning": self.writing_mb}
        named = ", ".join(f"{name} {size:.0f}" for name, size in parts.items() if size >= 0.5)
        return f"peak {self.peak_mb:.0f} MB ({named}); {self.way.describe()}"


def make_job(
    geometry: Geometry,
    model: TrainedModel,
    voxel_bytes: int,
    *,
    has_maps: bool = False,
    has_probabilities: bool = False,
) -> Job:
    """Return the job of a scan of which only the header was read."""
    value_bytes = 2 if model.prepare is None else 4
    grid = model.grid_shape(geometry)
    return Job(model.n_inputs, voxel_bytes, value_bytes, geometry.shape, grid, has_maps, has_probabilities)


def forecast(segmenter: Segmenter, job: Job, way: Way, windows_mb: WindowsMb) -> Forecast:
    """Return what a case will take in a way.

    Args:
        segmenter: Of the model.
        job: The case.
        way: How it will be predicted.
        windows_mb: Of so many windows in the network at once, see `measure_windows`.
    """
    data, settings, plan = segmenter.model.data, segmenter.settings, segmenter.plan(job.grid)
    scan, grid, plane = prod(job.scan), prod(job.grid), prod(plan.plane)
    is_here = way.blends_on_cpu or segmenter.device.type == "cpu"
    values = segmenter.n_values
    patch_mb = 4 * values * prod(plan.patch) / MB
    slab = 4 * (values + 1) * plan.depth * plane / MB if is_here else 0.0
    threads = torch.get_num_threads()
    block = TASK_COPIES * min(BLOCK, 8 * data.n_outputs * plane)
    late = segmenter.ensemble.head is not None
    parts = {
        "process": read_rss_mb(),
        "image": job.value_bytes * job.channels * grid / MB,
        "slab buffer": patch_mb if way.in_file else slab,
        "windows": _predict_mb(segmenter, way, windows_mb),
        "export": (4 * data.n_outputs * plane * (3 if late else 1) + 4 * block * threads) / MB,
        "class map": scan / MB,
    }
    if not is_here:
        parts["slab copy"] = 4 * values * plan.depth * plane / MB
    if settings.refine:
        parts["refinement"] = _refine_mb(data.n_outputs, job.channels, grid, are_regions=bool(data.regions))
    if job.has_maps:
        parts["uncertainty maps"] = MAP_BYTES * grid / MB
    if job.has_probabilities:
        made = PART_COPIES * min(PART, data.n_outputs * max(scan // size for size in job.scan))
        parts["probabilities"] = threads * 4 * (data.n_outputs * plane + made) / MB
    normalised = scan * (2 * job.voxel_bytes + 8)
    resampled = scan * (2 * job.voxel_bytes + 4) + grid * 4
    loading = job.channels * max(normalised, resampled) / MB
    writing = scan * (4 + (POSTPROCESS_BYTES if settings.postprocess else 0)) / MB
    if job.has_maps:
        writing = max(writing, 4 * scan / MB + (MAP_BYTES * grid + MAPS_BYTES * scan) / MB)
    return Forecast(way, parts, loading, writing + (PACKING_MB if job.has_probabilities else 0))


def _predict_mb(segmenter: Segmenter, way: Way, windows_mb: WindowsMb) -> float:
    """Return what the network takes; with a file, outputs of views that are compared lie there, too."""
    found, ensemble = windows_mb(way.window_batch), segmenter.ensemble
    if ensemble.activation is None or not way.in_file:
        return found
    output = 4 * (segmenter.n_values - 1) * way.window_batch * prod(segmenter.model.plan.patch) / MB
    return max(2 * output, found - (ensemble.n_views - 1) * output)


def _refine_mb(n_outputs: int, channels: int, grid: int, *, are_regions: bool) -> float:
    """Return what `refine.crf` says that it takes where all voxels take part, and regions beside it."""
    classes = 2 if are_regions else n_outputs
    voxel = 30 + 4 * (4 * classes + 3 * channels) + 32 * classes
    if are_regions:  # refined one by one: against their complement, and the results
        voxel += 4 * 4 * n_outputs
    return voxel * grid / MB + 32


def choose_way(
    segmenter: Segmenter, job: Job, cap_mb: float | None, windows_mb: WindowsMb, *, is_asked: bool = True
) -> Forecast:
    """Return the forecast of the fastest way that fits.

    Args:
        segmenter: Of the model.
        job: The case.
        cap_mb: What the process may hold; None: anything.
        windows_mb: See `forecast`.
        is_asked: Whether somebody set the cap; else it is what the machine has.

    Raises:
        ResourceError: INFER_MEMORY, where none does.
    """
    found = forecast(segmenter, job, segmenter.way, windows_mb)
    if cap_mb is None:
        return found
    ways = segmenter.way.step_down(has_gpu=segmenter.device.type != "cpu")
    lowest = found
    while found.peak_mb > cap_mb:
        following = next(ways, None)
        if following is None:
            raise _refuse(lowest, cap_mb, is_asked=is_asked)
        found = forecast(segmenter, job, following, windows_mb)
        lowest = min(lowest, found, key=lambda one: one.peak_mb)
    return found


def _refuse(lowest: Forecast, cap_mb: float, *, is_asked: bool) -> ResourceError:
    phases = {"reading the scan": lowest.loading_mb, "cleaning the mask": lowest.writing_mb}
    phases["predicting"] = lowest.peak_mb - lowest.parts_mb["process"] if lowest.peak_mb else 0
    largest = max(phases, key=lambda name: phases[name])
    allowed = "--memory-gb allows" if is_asked else "this machine has room for"
    more = "allow more with --memory-gb" if is_asked else "free memory (--memory-gb sets another limit)"
    return ResourceError(
        f"at least {lowest.peak_mb / 1024:.2f} GB are needed, most of it for {largest}, and {allowed} "
        f"{cap_mb / 1024:.2f}",
        hint=f"{more}, crop the scan, or use a model of coarser spacing",
        code="INFER_MEMORY",
    )


def measure_windows(segmenter: Segmenter, count: int, limit_mb: float | None = None) -> float:
    """Return the MB that some windows take in the network at once, measured on zeros.

    Not so many times what one takes: the convolutions of a single window may be done in another, larger way.

    Args:
        segmenter: Of the model.
        count: Windows.
        limit_mb: Small windows are tried first: where they tell that the next would exceed it, the answer is
            what they tell of all.
    """
    if segmenter.device.type != "cpu":
        return 0.0
    model = segmenter.model
    patch, least = model.plan.patch, small_window(model.plan)
    trials = [] if limit_mb is None else _list_trials(patch, least, count)
    for trial in trials[:1]:
        _measure_pass(segmenter, trial)  # what the first pass leaves behind is not of the windows
    known: list[tuple[int, float]] = []
    for trial in trials:
        size = trial[0] * prod(trial[1])
        if known and limit_mb is not None and _extrapolate(known, size) > limit_mb:
            return _extrapolate(known, count * prod(patch))
        known.append((size, _measure_pass(segmenter, trial)))
    if known and limit_mb is not None and (told := _extrapolate(known, count * prod(patch))) > limit_mb:
        return told
    _measure_pass(segmenter, (count, patch))
    return _measure_pass(segmenter, (count, patch))


def _measure_pass(segmenter: Segmenter, trial: tuple[int, Triple]) -> float:
    windows = torch.zeros((trial[0], segmenter.model.n_inputs, *trial[1]))
    return measure_mb(lambda: segmenter.ensemble(windows))


def _list_trials(patch: Triple, least: Triple, count: int) -> list[tuple[int, Triple]]:
    """Return windows that grow about eightfold, up to one whole window where there are several."""
    trials, edges = ([(1, patch)] if count > 1 else []), patch
    for _ in range(2):
        steps = [max(1, edge // 2) for edge in least]  # what the network divides edges by
        i, j, k = (max(low, ceil(edge / 2 / step) * step) for low, edge, step in zip(least, edges, steps))
        if (i, j, k) == edges:
            break
        edges = i, j, k
        trials.insert(0, (1, edges))
    return trials


def _extrapolate(known: list[tuple[int, float]], size: int) -> float:
    """Return the MB of a size in voxels, on the line through the last two that are known."""
    (small, low), (large, high) = ([(0, 0.0), *known])[-2:]
    return high + max(0.0, high - low) / (large - small) * (size - large)


def measure_mb(work: Callable[[], object]) -> float:
    """Return by how many MB the resident set grew, at most, while `work` ran."""
    before, highest, done = read_rss_mb(), 0.0, threading.Event()

    def look() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, read_rss_mb())
            done.wait(LOOK_S)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        result = work()
        highest = max(highest, read_rss_mb())  # the watcher may have slept; `result` is still held
        del result
    finally:
        done.set()
        watcher.join()
    return max(0.0, highest - before)


def read_rss_mb() -> float:
    """Return this process's resident set; 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MB
