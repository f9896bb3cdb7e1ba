"""Regions and the ignore label: settings, classes, the check, the store, where patches lie."""

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.core.errors import DataError
from medseg.core.volume import IGNORED, Labels
from medseg.data.cases import Case
from medseg.data.checks import check_case
from medseg.data.loader import draw_centre
from medseg.data.loading import output_names, region_classes, region_paints, to_classes, to_stored
from medseg.data.preprocess import preprocess_image
from medseg.data.store import StoredCase, write_case
from medseg.io import read_labels, write_labels, write_volume
from tests.builders import make_box_case, make_data, make_plan

WHOLE = {"name": "whole", "covers": (20, 30, 40), "paints": 20}
CORE = {"name": "core", "covers": (30, 40), "paints": 40}
CENTRE = {"name": "centre", "covers": (30,), "paints": 30}
TUMOUR = {20: "oedema", 30: "necrosis", 40: "enhancing"}


def refuse(**changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        make_data(**changes)
    return str(caught.value)


# --- settings ----------------------------------------------------------------------------------


def test_outputs_are_regions_or_labels_with_background():
    assert make_data(labels=TUMOUR).n_outputs == 4
    assert make_data(labels=TUMOUR, regions=(WHOLE, CORE, CENTRE)).n_outputs == 3


def test_outputs_are_scored_as_regions_or_as_labels_in_order_of_value():
    assert output_names(make_data(labels={7: "b", 3: "a"})) == ["a", "b"]
    assert output_names(make_data(labels=TUMOUR, regions=(WHOLE, CORE, CENTRE))) == [
        "whole",
        "core",
        "centre",
    ]


def test_regions_name_stored_values_and_become_classes():
    data = make_data(labels=TUMOUR, regions=(WHOLE, CORE, CENTRE))
    assert region_classes(data) == [(1, 2, 3), (2, 3), (2,)]
    assert region_paints(data) == [1, 3, 2]
    assert region_classes(make_data()) == []


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ((WHOLE, WHOLE), "two regions have the same name"),
        (({**WHOLE, "covers": (20, 50)},), r"region `whole` names [50]: not in `labels`"),
        (({**WHOLE, "paints": 50},), r"region `whole` names [50]: not in `labels`"),
        ((WHOLE, {**CORE, "paints": 20}), "region `core` paints 20, which it does not cover"),
        ((WHOLE, CORE), "`regions` never paint label 30: the last region that covers it paints 40"),
        ((WHOLE, CENTRE, CORE), "`regions` never paint label 30: the last region that covers it paints 40"),
        ((CORE, CENTRE), "`regions` never paint label 20: none covers it"),
    ],
)
def test_regions_that_cannot_give_the_labels_back_are_refused(regions, message):
    assert message in refuse(labels=TUMOUR, regions=regions)


@pytest.mark.parametrize("value", [0, 1, -1, 65536])
def test_ignore_label_is_a_value_of_its_own(value):
    assert "`ignore_label` needs a value from 1 to 65535" in refuse(ignore_label=value)


def test_ignore_label_is_out_of_reach_where_nonzero_takes_every_value():
    assert "add what becomes `ignore_label`, 9" in refuse(label_map={"nonzero": 1}, ignore_label=9)
    assert make_data(label_map={"nonzero": 1, 9: 9}, ignore_label=9).ignore_label == 9


# --- classes -----------------------------------------------------------------------------------


def test_ignore_label_becomes_class_255_and_comes_back():
    data = make_data(ignore_label=300)
    stored = np.array([[[0, 2, 300, 1]]])
    assert to_classes(stored, data).tolist() == [[[0, 2, IGNORED, 1]]]
    assert np.array_equal(to_stored(to_classes(stored, data), data), stored)


def test_unlabelled_zeros_can_be_ignored_and_scribbled_background_be_zero():
    data = make_data(label_map={0: 255, 3: 0}, ignore_label=255)
    assert to_classes(np.array([[[0, 3, 1, 2]]]), data).tolist() == [[[IGNORED, 0, 1, 2]]]


def test_value_255_is_unknown_without_an_ignore_label():
    with pytest.raises(DataError) as caught:
        to_classes(np.array([[[0, 255]]]), make_data())
    assert caught.value.code == "LABEL_VALUE"


# --- the check ---------------------------------------------------------------------------------


def check(folder, change):
    image, label = make_box_case()
    label = Labels(change(label.array.astype(np.uint16)), label.geometry)
    write_volume(folder / "a.nii.gz", image)
    write_labels(folder / "label.nii.gz", label)
    case = Case("a", (folder / "a.nii.gz",), folder / "label.nii.gz")
    return check_case(case, make_data(ignore_label=9)), image.array[0], label.array


def test_ignored_voxels_are_not_counted(tmp_path):
    record, _, _ = check(tmp_path, lambda label: np.where(label == 1, 9, label))
    assert record.voxels == (9 * 8 * 7 - 24, 0, 1)  # the box has 24 voxels, one of them label 2


def test_intensities_are_not_those_of_ignored_voxels(tmp_path):
    record, image, label = check(tmp_path, lambda label: np.where(label == 0, 9, label))
    assert record.intensities == (tuple(np.sort(image[np.isin(label, (1, 2))]).astype(float)),)


def test_case_without_a_labelled_voxel_is_refused(tmp_path):
    record, _, _ = check(tmp_path, lambda label: np.full_like(label, 9))
    assert record.code == "LABEL_IGNORED"


# --- store and patches -------------------------------------------------------------------------


def store_sparse(folder, classes, reference=None):
    image, _ = make_box_case(classes.shape)
    write_volume(folder / "source.nii.gz", image)
    array, placement = preprocess_image(image, make_plan())
    reference = Labels(classes.astype(np.uint16) if reference is None else reference, image.geometry)
    write_case(folder / "a", "key", (array, classes), placement, reference, folder / "source.nii.gz")
    return StoredCase(folder / "a")


@pytest.fixture
def sparse(tmp_path):
    """Two voxels of label 1, three of background, all others ignored."""
    classes = np.full((9, 8, 7), IGNORED, np.uint8)
    classes[4, 4, 2:4] = 1
    classes[1, 1, 1:4] = 0
    return store_sparse(tmp_path, classes)


def test_ignored_voxels_are_no_foreground_to_centre_on(sparse):
    assert {label: points.tolist() for label, points in sparse.points.items()} == {1: [[4, 4, 2], [4, 4, 3]]}


def test_labelled_voxels_are_foreground_and_scribbled_background(sparse):
    assert sparse.labelled.tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 3], [4, 4, 2], [4, 4, 3]]


def test_where_nothing_is_ignored_every_voxel_may_be_a_centre(tmp_path):
    assert store_sparse(tmp_path, np.zeros((9, 8, 7), np.uint8)).labelled is None


def test_many_labelled_voxels_are_a_sample(tmp_path):
    classes = np.zeros((9, 10, 11), np.uint8)
    classes[0] = IGNORED
    points = store_sparse(tmp_path, classes).labelled
    assert len(points) == 500 and (points[:, 0] > 0).all()


def test_patches_off_foreground_are_centred_on_labelled_voxels(sparse):
    plan = make_plan(patch=(1, 1, 1))
    centres = {
        tuple(draw_centre(np.random.default_rng(seed), sparse, plan, on_foreground=False).tolist())
        for seed in range(60)
    }
    assert centres == {tuple(point) for point in sparse.labelled.tolist()}


def test_patches_on_foreground_are_centred_on_it_as_ever(sparse):
    plan = make_plan(patch=(1, 1, 1))
    centres = {
        tuple(draw_centre(np.random.default_rng(seed), sparse, plan, on_foreground=True).tolist())
        for seed in range(20)
    }
    assert centres == {(4, 4, 2), (4, 4, 3)}


def test_reference_keeps_the_ignore_label(tmp_path):
    data = make_data(ignore_label=300)
    classes = np.zeros((9, 8, 7), np.uint8)
    classes[0], classes[1] = IGNORED, 2
    case = store_sparse(tmp_path, classes, to_stored(classes, data))
    assert np.unique(read_labels(case.reference).array).tolist() == [0, 2, 300]
