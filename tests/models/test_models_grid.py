"""The grid refuses numbers that describe no network."""

from __future__ import annotations

import dataclasses
import json

import pytest

from medseg.core.errors import ConfigError
from medseg.models import Grid

GOOD = {
    "dims": 3,
    "patch": (4, 16, 24),
    "spacing_mm": (5.0, 1.0, 1.0),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
}


def test_total_stride_multiplies_the_levels_axis_by_axis():
    assert Grid(**GOOD).total_stride == (2, 4, 4)


def test_grid_survives_json():
    grid = Grid(**GOOD)
    assert Grid(**json.loads(json.dumps(dataclasses.asdict(grid)))) == grid


@pytest.mark.parametrize(
    "change",
    [
        {"dims": 4},
        {"patch": (16, 16)},
        {"patch": (0, 16, 16)},
        {"spacing_mm": (0.0, 1.0, 1.0)},
        {"strides": ((1, 2, 2), (1, 2, 2), (2, 2, 2))},
        {"strides": ((1, 1, 1), (2, 2, 2))},
        {"strides": (), "kernels": ()},
        {"kernels": ((1, 3, 3), (3, 3, 3), (3, 2, 3))},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(change):
    with pytest.raises(ConfigError) as raised:
        Grid(**(GOOD | change))
    assert raised.value.code == "GRID_INVALID"


def test_patch_that_shrinks_to_one_voxel_is_refused():
    with pytest.raises(ConfigError) as raised:
        Grid(**(GOOD | {"patch": (2, 4, 4)}))
    assert raised.value.code == "GRID_TOO_DEEP"


@pytest.mark.parametrize("patch", [(2, 4, 8), (2, 4, 5)])  # the second is padded to the first
def test_patch_that_shrinks_to_two_voxels_is_accepted(patch):
    assert Grid(**(GOOD | {"patch": patch})).levels == 3
