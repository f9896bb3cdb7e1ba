"""The comparison that judges all cases sees every fault that a reader can make."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.dicom_files import DOUBLE_OBLIQUE, LPS_TO_RAS, Truth
from tests.ramp_checks import points_lps, why_not

TRUTH = Truth(DOUBLE_OBLIQUE)
Volume = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def volume() -> Volume:
    """The right one: (columns, rows, slices)."""
    affine = TRUTH.grid.affine_ras
    return np.rint(TRUTH.ramp.at(points_lps((7, 6, 5), affine))), affine


def test_the_right_volume_is_right(volume: Volume) -> None:
    assert why_not(*volume, TRUTH) == ""


def test_the_right_volume_stored_backwards_is_right(volume: Volume) -> None:
    array, affine = volume
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 6
    assert why_not(array[::-1], affine @ flip, TRUTH) == ""


def moved(affine: np.ndarray, by_mm: object) -> np.ndarray:
    result = affine.copy()
    result[:, 3] += np.asarray(by_mm, float)
    return result


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray], Volume]] = {
    "columns_flipped": lambda array, affine: (array[::-1], affine),
    "rows_flipped": lambda array, affine: (array[:, ::-1], affine),
    "slices_flipped": lambda array, affine: (array[..., ::-1], affine),
    "two_slices_swapped": lambda array, affine: (array[..., [0, 2, 1, 3, 4]], affine),
    "left_for_right": lambda array, affine: (array, LPS_TO_RAS @ affine),
    "row_distance_for_column_distance": lambda array, affine: (array, affine * [5 / 3, 3 / 5, 1, 1]),
    "step_two_percent_off": lambda array, affine: (array, affine * [1, 1, 1.02, 1]),
    "half_a_voxel_off": lambda array, affine: (array, moved(affine, 0.5 * affine[:, 0])),
    "a_tenth_of_a_millimetre_off": lambda array, affine: (array, moved(affine, [0, 0, 0.1, 0])),
    "two_values_off_in_one_voxel": lambda array, affine: (array + 2 * (array == array.max()), affine),
    "last_slice_lost": lambda array, affine: (array[..., :-1], affine),
    "slope_off": lambda array, affine: (array * 1.001, affine),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_seen(name: str, volume: Volume) -> None:
    assert why_not(*FAULTS[name](*volume), TRUTH) != ""
