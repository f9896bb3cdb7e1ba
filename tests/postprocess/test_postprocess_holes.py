"""Cavities on phantoms that can be counted by hand."""

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.postprocess.holes import fill_holes

SPACING_MM = (1.0, 2.0, 5.0)  # 10 mm3


def grid(labels_IJK):
    return Geometry.of_spacing(labels_IJK.shape, SPACING_MM)


@pytest.fixture
def shell():
    """Label 1, 5 x 5 x 5 around a cavity of 27 voxels."""
    labels_IJK = np.zeros((7, 7, 7), dtype=np.uint8)
    labels_IJK[1:6, 1:6, 1:6] = 1
    labels_IJK[2:5, 2:5, 2:5] = 0
    return labels_IJK


def test_enclosed_cavity_is_filled(shell):
    assert np.sum(fill_holes(shell, grid(shell)) == 1) == 125


def test_cavity_open_to_a_face_stays(shell):
    shell[3, 3, 5] = 0
    assert np.array_equal(fill_holes(shell, grid(shell)), shell)


def test_cavity_open_to_a_corner_is_filled(shell):
    shell[5, 5, 3] = shell[5, 4, 3] = 0  # the channel reaches outside over faces
    assert np.array_equal(fill_holes(shell, grid(shell)), shell)
    shell[5, 4, 3] = 1  # now only over an edge
    assert fill_holes(shell, grid(shell))[3, 3, 3] == 1


def test_cavity_at_the_image_border_stays(shell):
    cut = np.ascontiguousarray(shell[2:])
    assert np.array_equal(fill_holes(cut, grid(cut)), cut)


@pytest.mark.parametrize(("max_volume_mm3", "filled"), [(269.9, 0), (270.0, 27), (None, 27)])
def test_large_cavity_stays_open(shell, max_volume_mm3, filled):
    result = fill_holes(shell, grid(shell), max_volume_mm3=max_volume_mm3)
    assert np.sum(result != shell) == filled


def test_cavity_between_two_labels_stays(shell):
    shell[1] *= 2
    assert np.array_equal(fill_holes(shell, grid(shell)), shell)


def test_label_inside_a_cavity_is_not_overwritten(shell):
    shell[3, 3, 3] = 2
    assert np.array_equal(fill_holes(shell, grid(shell)), shell)


def test_nested_shells_each_fill_their_own(shell):
    labels_IJK = np.zeros((13, 13, 13), dtype=np.uint8)
    labels_IJK[1:12, 1:12, 1:12] = 2
    labels_IJK[3:10, 3:10, 3:10] = shell
    labels_IJK[3:10, 3:10, 3:10][shell == 0] = 2  # the shell of label 1 lies in solid label 2
    labels_IJK[6, 6, 6] = 0
    labels_IJK[5:8, 5:8, 5:8] = 0
    result = fill_holes(labels_IJK, grid(labels_IJK))
    assert (result[6, 6, 6], np.sum(result == 1)) == (1, 125)


def test_cavities_of_other_labels_stay(shell):
    assert np.array_equal(fill_holes(shell, grid(shell), labels=[2]), shell)


def test_hole_in_a_2d_image_is_filled():
    ring = np.zeros((6, 6, 1), dtype=np.uint8)
    ring[1:5, 1:5] = 3
    ring[2:4, 2:4] = 0
    assert np.sum(fill_holes(ring, grid(ring)) == 3) == 16
