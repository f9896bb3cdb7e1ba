"""Plans of growing size, to be chosen from by the memory that each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from medseg.data.plan import FEATURES, GPU_MAX_VOXELS, Plan, Scale
from medseg.data.settings import Grid

SMALLEST = {2: 64**2, 3: 32**3}  # patch voxels
GROWTH = 1.25  # of the patch, from plan to plan; edges are rounded to what the network divides them by
UNBOUNDED = 2**62
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# A CPU's time ends before its memory does: 8 patches in 3D (nnU-Net's are 2 to 9); its widest is the GPU's.
MAX_BATCH = {"cpu": {2: 32, 3: 8}, "cuda": {2: 64, 3: 64}}
WIDTHS = {"cpu": (16, 24, 32), "cuda": ()}


def list_plans(
    make: Callable[[Scale | None], Plan], grid: Grid, device: str, *, is_width_free: bool
) -> list[Plan]:
    """Return the plans to choose from, smallest first.

    The patch grows to the median shape, then the batch, then the width: context is worth more than more
    samples, and both more than more channels (Isensee et al. 2021, suppl. note 2). What `grid` fixes stays;
    where it fixes all, there is one plan.

    Args:
        make: Makes the plan of a scale; of None, the one by constants.
        grid: What the pipeline or the user fixed.
        device: "cpu" or "cuda".
        is_width_free: Whether the network takes its channels from the plan.
    """
    plans: list[Plan] = []
    for scale in _list_scales(make, grid, device, is_width_free):
        plan = make(scale)
        if not plans or step_work(plan) > step_work(plans[-1]):
            plans.append(plan)
    return plans


def step_work(plan: Plan) -> int:
    """Return voxels per step times channels at full resolution, which memory grows with."""
    return prod(plan.patch) * plan.batch_size * plan.features[0]


def _list_scales(
    make: Callable[[Scale | None], Plan], grid: Grid, device: str, is_width_free: bool
) -> Iterator[Scale]:
    usual = make(None)
    width = FEATURES[device][0]
    # A fixed patch may be so large that one sample is all that fits.
    batch = 1 if grid.patch else usual.batch_size if device == "cpu" else 2
    most = GPU_MAX_VOXELS[usual.dims] if device == "cuda" else UNBOUNDED
    largest = prod(make(Scale(most, batch, width)).patch)
    voxels = float(SMALLEST[usual.dims])
    while voxels < largest:
        yield Scale(int(voxels), batch, width)
        voxels *= GROWTH
    yield Scale(largest, batch, width)
    for more in BATCHES:
        if batch < more <= MAX_BATCH[device][usual.dims]:
            yield Scale(largest, more, width)
    if is_width_free:
        last = max(batch, MAX_BATCH[device][usual.dims])
        for wider in WIDTHS[device]:
            yield Scale(largest, last, wider)
