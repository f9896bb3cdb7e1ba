"""Every metric where masks are empty, one voxel, or touch the border; boxes and balls of known answer."""

import numpy as np
import pytest

from medseg.metrics import METRICS, Pair
from medseg.metrics.boundary import boundary_f1, boundary_iou, spread
from medseg.metrics.surface import assd, hd, hd95, hd95_area, nsd, nsd_area
from medseg.metrics.surfels import tabulate_cuts

SPACING_MM = (1.0, 2.0, 4.0)
VALUES = (
    *("dice", "iou", "precision", "recall", "volume_error_ml", "relative_volume_error"),
    *("hd_mm", "hd95_mm", "assd_mm", "nsd", "hd95_area_mm", "nsd_area", "boundary_f1", "boundary_iou"),
    *("lesion_f1", "lesion_sensitivity", "lesion_precision", "lesion_false_positives", "lesion_dice"),
    *("pq", "sq", "rq"),
)
# Of a voxel of 8 mm3 that is in neither mask, the reference, the prediction, or both.
TABLE = {
    "both_empty": (None, None, None, None, 0, None, *[None] * 8, None, None, None, 0, None, None, None, None),
    "missed": (0, 0, None, 0, -0.008, -1, None, None, None, 0, None, 0, 0, 0, 0, 0, None, 0, 0, 0, None, 0),
    "spurious": (
        0,
        0,
        0,
        None,
        0.008,
        None,
        None,
        None,
        None,
        0,
        None,
        0,
        0,
        0,
        0,
        None,
        0,
        1,
        0,
        0,
        None,
        0,
    ),
    "present": (1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1),
}
every_place = pytest.mark.parametrize("place", [(2, 2, 2), (0, 0, 0), (4, 3, 2), (0, 3, 1)], ids=str)


def measure_all(pair):
    return {key: number for metric in METRICS.values() for key, number in metric(pair).items()}


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


@every_place
@pytest.mark.parametrize("state", list(TABLE))
def test_one_voxel_scores_as_tabulated_wherever_it_lies(state, place):
    empty = np.zeros((5, 4, 3), bool)
    voxel = empty.copy()
    voxel[place] = True
    pair = Pair(
        voxel if state in {"missed", "present"} else empty,
        voxel if state in {"spurious", "present"} else empty,
        SPACING_MM,
    )
    found = measure_all(pair)
    assert pair.state == state
    assert [found[name] for name in VALUES] == pytest.approx(list(TABLE[state]))


def test_masks_that_touch_scores_no_overlap_but_near_surfaces():
    pair = Pair(box((6, 4, 3), (0, 0, 0), (3, 4, 3)), box((6, 4, 3), (3, 0, 0), (6, 4, 3)), SPACING_MM)
    found = measure_all(pair)
    assert (found["dice"], found["boundary_iou"], found["lesion_sensitivity"], found["pq"]) == (0, 0, 0, 0)
    assert found["lesion_false_positives"] == 1
    assert found["hd_mm"] == 3  # the far face of either lies three voxels of 1 mm from the other's near face


def test_a_mask_that_fills_the_image_has_the_image_border_as_surface():
    full = np.ones((4, 4, 4), bool)
    found = measure_all(Pair(full, full, SPACING_MM))
    assert [found[name] for name in VALUES] == pytest.approx(list(TABLE["present"]))


@pytest.mark.parametrize(("axis", "step_mm"), list(enumerate(SPACING_MM)))
def test_a_moved_plate_is_as_far_away_as_it_was_moved(axis, step_mm):
    """Two plates of one voxel, four apart: every distance is the same."""
    masks = np.zeros((2, 9, 9, 9), bool)
    for mask, at in zip(masks, (2, 6), strict=True):
        np.moveaxis(mask, axis, 0)[at] = True
    pair = Pair(*masks, SPACING_MM)
    far = 4 * step_mm
    assert (hd(pair)["hd_mm"], hd95(pair)["hd95_mm"], assd(pair)["assd_mm"]) == (far, far, far)
    for metric in (nsd, boundary_f1):
        (within,), (beyond,) = (metric(pair, tolerance_mm=mm).values() for mm in (far, far - 0.01))
        assert (within, beyond) == (1, 0)


def test_average_distance_pools_both_surfaces():
    # A line of 3 voxels in one of 6: 0 0 0 from the short one, 0 0 0 1 2 3 mm from the long one.
    pair = Pair(box((8, 3, 3), (1, 1, 1), (4, 2, 2)), box((8, 3, 3), (1, 1, 1), (7, 2, 2)), SPACING_MM)
    assert assd(pair)["assd_mm"] == pytest.approx(6 / 9)
    assert hd(pair)["hd_mm"] == 3


def test_boundary_f1_averages_the_shares_that_nsd_pools():
    pair = Pair(box((8, 3, 3), (1, 1, 1), (4, 2, 2)), box((8, 3, 3), (1, 1, 1), (7, 2, 2)), SPACING_MM)
    recall, precision = 1, 4 / 6  # within 1 mm
    assert boundary_f1(pair)["boundary_f1"] == pytest.approx(2 * recall * precision / (recall + precision))
    assert nsd(pair)["nsd"] == pytest.approx((3 + 4) / (3 + 6))


@pytest.mark.parametrize(("width_mm", "expected"), [(0.0, 32 / 36), (1.0, 56 / 68)])
def test_boundary_iou_compares_bands_and_not_the_core(width_mm, expected):
    """9 x 9 pixels, and the same with a hole of one: its rim of 4 is extra, 12 within 1 mm of the rim."""
    square = box((11, 11, 1), (1, 1, 0), (10, 10, 1))
    pierced = square.copy()
    pierced[5, 5] = False
    pair = Pair(square, pierced, (1.0, 1.0, 5.0))
    assert boundary_iou(pair, width_mm=width_mm)["boundary_iou"] == pytest.approx(expected)


def test_a_band_is_measured_in_mm():
    point = box((9, 9, 9), (4, 4, 4), (5, 5, 5))
    reached = np.argwhere(spread(point, 2.0, SPACING_MM)) - 4
    assert np.abs(reached).max(0).tolist() == [2, 1, 0]
    assert len(reached) == 5 + 2  # along i -2..2; one step of 2 mm along j, with nothing left for i


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.5)])
def test_the_surface_of_a_box_by_area_is_that_of_the_box_with_cut_edges(spacing_mm):
    """Faces, less a cell's half along edges, which are cut at a slant, and corners, which are triangles."""
    shape = (6, 5, 4)
    pair = Pair(*[np.ones(shape, bool)] * 2, spacing_mm)
    i, j, k = spacing_mm
    a, b, c = (n - 1 for n in shape)
    faces = 2 * (a * b * i * j + a * c * i * k + b * c * j * k)
    slants = 4 * (a * i * np.hypot(j, k) + b * j * np.hypot(i, k) + c * k * np.hypot(i, j)) / 2
    triangles = 8 * np.sqrt((j * k) ** 2 + (i * k) ** 2 + (i * j) ** 2) / 8
    assert pair.surfels[0].areas.sum() == pytest.approx(faces + slants + triangles)


@pytest.mark.parametrize("spacing_mm", [(0.8, 0.8, 0.8), (0.5, 0.8, 1.2)])
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(spacing_mm):
    at = np.indices((44, 30, 22)) * np.reshape(spacing_mm, (3, 1, 1, 1))
    centre = np.reshape([n * mm / 2 for n, mm in zip((44, 30, 22), spacing_mm, strict=True)], (3, 1, 1, 1))
    distance = np.sqrt(((at - centre) ** 2).sum(0))
    pair = Pair(distance <= 8, distance <= 5, spacing_mm)
    voxel = np.linalg.norm(spacing_mm)
    for found in (assd(pair)["assd_mm"], hd95(pair)["hd95_mm"], hd95_area(pair)["hd95_area_mm"]):
        assert abs(found - 3) < voxel
    assert (nsd_area(pair, tolerance_mm=3 - voxel)["nsd_area"], nsd(pair, tolerance_mm=3 + voxel)["nsd"]) == (
        0,
        1,
    )
    assert pair.surfels[0].areas.sum() == pytest.approx(4 * np.pi * 64, rel=0.12)  # stairs are longer


def test_a_complement_has_the_same_surface():
    sizes = tabulate_cuts((0.7, 1.3, 2.9))
    assert sizes == pytest.approx(sizes[::-1])


def test_a_line_of_voxels_has_two_ends():
    mask = np.ones((5, 1, 1), bool)
    assert Pair(mask, mask, SPACING_MM).surfels[0].areas.tolist() == [1, 1]
