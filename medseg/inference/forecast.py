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
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.inference.layers import BLOCK
from medseg.inference.way import Way

if TYPE_CHECKING:
    from medseg.inference.segment import Segmenter
    from medseg.inference.trained import TrainedModel

WindowsMb = Callable[[int], float]

MB = 1 << 20
LOOK_S = 0.001  # between two looks at the resident set
POSTPROCESS_BYTES = 14  # a voxel: components as int32, their number and masks while a step runs
MAP_BYTES = 4  # a preprocessed voxel: entropy and disagreement in half precision
MAPS_BYTES = 20  # a stored voxel: both maps in float32, and three copies while one of them is restored
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
    """

    channels: int
    voxel_bytes: int
    value_bytes: int
    scan: tuple[int, int, int]
    grid: tuple[int, int, int]
    has_maps: bool = False


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


def make_job(geometry: Geometry, model: TrainedModel, voxel_bytes: int, *, has_maps: bool = False) -> Job:
    """Return the job of a scan of which only the header was read."""
    value_bytes = 2 if model.prepare is None else 4
    grid = model.grid_shape(geometry)
    return Job(model.n_inputs, voxel_bytes, value_bytes, geometry.shape, grid, has_maps)


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
        "windows": windows_mb(way.window_batch),
        "export": (4 * data.n_outputs * plane * (3 if late else 1) + 4 * block * threads) / MB,
        "class map": scan / MB,
    }
    if not is_here:
        parts["slab copy"] = 4 * values * plan.depth * plane / MB
    if settings.refine:
        parts["refinement"] = 20 * data.n_outputs * grid / MB
    if job.has_maps:
        parts["uncertainty maps"] = MAP_BYTES * grid / MB
    normalised = scan * (2 * job.voxel_bytes + 8)
    resampled = scan * (2 * job.voxel_bytes + 4) + grid * 4
    loading = job.channels * max(normalised, resampled) / MB
    writing = scan * (4 + (POSTPROCESS_BYTES if settings.postprocess else 0)) / MB
    if job.has_maps:
        writing = max(writing, 4 * scan / MB + (MAP_BYTES * grid + MAPS_BYTES * scan) / MB)
    return Forecast(way, parts, loading, writing)


def choose_way(segmenter: Segmenter, job: Job, cap_mb: float | None, windows_mb: WindowsMb) -> Forecast:
    """Return the forecast of the fastest way that fits.

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
            raise _refuse(lowest, cap_mb)
        found = forecast(segmenter, job, following, windows_mb)
        lowest = min(lowest, found, key=lambda one: one.peak_mb)
    return found


def _refuse(lowest: Forecast, cap_mb: float) -> ResourceError:
    phases = {"reading the scan": lowest.loading_mb, "cleaning the mask": lowest.writing_mb}
    phases["predicting"] = lowest.peak_mb - lowest.parts_mb["process"] if lowest.peak_mb else 0
    largest = max(phases, key=lambda name: phases[name])
    return ResourceError(
        f"at least {lowest.peak_mb / 1024:.2f} GB are needed, most of it for {largest}, and --memory-gb "
        f"allows {cap_mb / 1024:.2f}",
        hint="allow more with --memory-gb, crop the scan, or use a model of coarser spacing",
        code="INFER_MEMORY",
    )


def measure_windows(segmenter: Segmenter, count: int) -> float:
    """Return the MB that some windows take in the network at once, measured on zeros.

    Not so many times what one takes: the convolutions of a single window may be done in another, larger way.
    """
    if segmenter.device.type != "cpu":
        return 0.0
    model = segmenter.model
    windows = torch.zeros((count, model.n_inputs, *model.plan.patch))
    segmenter.ensemble(windows)  # what the first pass leaves behind is not of the windows
    return measure_mb(lambda: segmenter.ensemble(windows))


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
