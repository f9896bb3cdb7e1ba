"""The overlaps that validation counts."""

import numpy as np

from medseg.train.validation import count_overlaps, count_region_overlaps, summarise_overlaps

REFERENCE = np.array([[0, 1, 1, 2, 255]])


def test_ignored_voxels_are_left_out_of_overlap_and_sizes():
    # label 1: one of two found, one of label 2 called 1; the voxel at 255 counts nowhere
    assert count_overlaps(np.array([[0, 1, 0, 1, 2]]), REFERENCE, 2).tolist() == [[1, 0], [4, 1]]


def test_regions_are_counted_each_on_its_own():
    whole, core = [[False, True, True, False, True]], [[False, True, False, True, True]]
    found = count_region_overlaps(np.array([whole, core]), REFERENCE, [(1, 2), (2,)])
    assert found.tolist() == [[2, 1], [5, 3]]
    assert summarise_overlaps(found, ["whole", "core"])["dice_whole"] == 0.8
