"""Agreement with google-deepmind/surface-distance and SimpleITK where the definitions coincide, to 1e-6."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medseg.metrics import Pair
from medseg.metrics.overlap import dice, iou, precision, recall, relative_volume_error
from medseg.metrics.surface import hd, hd95_area, nsd_area
from medseg.metrics.surfels import encode_cells, tabulate_cuts

GRIDS = [
    ((20, 18, 14), (1.0, 1.0, 1.0)),
    ((20, 18, 14), (0.5, 1.25, 3.0)),
    ((9, 30, 8), (4.0, 0.75, 2.5)),
    ((24, 26, 1), (0.5, 1.25, 7.0)),
]
every_grid = pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS, ids=str)


def blobs(shape, seed):
    """Two noisy, overlapping masks that reach the image border here and there."""
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.standard_normal(shape), 1.2) for _ in range(3)]
    return smooth[0] + 0.5 * smooth[1] > 0.05, smooth[0] + 0.5 * smooth[2] > 0.05


def ask_surface_distance(masks, spacing_mm):
    """Return their surfaces, two-dimensional where the grid is."""
    surface_distance = pytest.importorskip("surface_distance")
    flat = masks[0].shape[2] == 1
    masks = [mask[..., 0] if flat else mask for mask in masks]
    return surface_distance, surface_distance.compute_surface_distances(*masks, spacing_mm[: 3 - flat])


@every_grid
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:Please (use|import):DeprecationWarning")
def test_surfaces_by_area_equal_those_of_surface_distance(shape, spacing_mm, seed):
    masks = blobs(shape, seed)
    theirs, surfaces = ask_surface_distance(masks, spacing_mm)
    pair = Pair(*masks, spacing_mm)
    for ours, side in zip(pair.surfels, ("gt", "pred"), strict=True):
        assert ours.areas.sum() == pytest.approx(surfaces[f"surfel_areas_{side}"].sum(), rel=1e-9)
    robust = theirs.compute_robust_hausdorff(surfaces, 95)
    assert hd95_area(pair)["hd95_area_mm"] == pytest.approx(robust, abs=1e-6)
    for tolerance_mm in (0.6, 1.3, 3.1):
        overlap = theirs.compute_surface_dice_at_tolerance(surfaces, tolerance_mm)
        assert nsd_area(pair, tolerance_mm=tolerance_mm)["nsd_area"] == pytest.approx(overlap, abs=1e-6)


def test_every_cell_has_the_area_that_surface_distance_tabulates():
    tables = pytest.importorskip("surface_distance.lookup_tables")
    spacing_mm = (0.7, 1.3, 2.9)
    expected = tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    for code in range(256):
        corners = (tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL & code) > 0
        ours = tabulate_cuts(spacing_mm)[encode_cells(corners)[1, 1, 1]]
        assert ours == pytest.approx(expected[code], rel=1e-12), code


@every_grid
def test_overlap_equals_simpleitk(shape, spacing_mm):
    import SimpleITK

    masks = blobs(shape, 3)
    measures = SimpleITK.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks[::-1]))
    pair = Pair(*masks, spacing_mm)
    assert dice(pair)["dice"] == pytest.approx(measures.GetDiceCoefficient(), abs=1e-6)
    assert iou(pair)["iou"] == pytest.approx(measures.GetJaccardCoefficient(), abs=1e-6)
    assert 1 - precision(pair)["precision"] == pytest.approx(measures.GetFalseDiscoveryRate(), abs=1e-6)
    assert 1 - recall(pair)["recall"] == pytest.approx(measures.GetFalseNegativeError(), abs=1e-6)
    # Theirs is relative to the mean of both volumes: d / (1 + d / 2).
    d = relative_volume_error(pair)["relative_volume_error"]
    assert d / (1 + d / 2) == pytest.approx(measures.GetVolumeSimilarity(), abs=1e-6)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)])
def test_hausdorff_distance_of_ellipsoids_equals_simpleitk(spacing_mm):
    import SimpleITK

    at = np.indices((22, 20, 18)).astype(float)
    reference, predicted = (
        sum(((at[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1
        for centre, radii in (((9, 9, 8), (6, 5, 4)), ((11, 10, 9), (7, 4, 5)))
    )
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, predicted)]
    for image in images:
        image.SetSpacing(spacing_mm[::-1])
    measure = SimpleITK.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    found = hd(Pair(reference, predicted, spacing_mm))["hd_mm"]
    assert found == pytest.approx(measure.GetHausdorffDistance(), abs=1e-6)
