import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.data.cases import Case
from medseg.data.loading import class_values, load_case, load_image, to_classes, to_stored
from medseg.data.settings import Channel, Data
from medseg.io import write_labels, write_volume
from tests.builders import make_box_case, make_data

SHAPE = (4, 3, 2)
GRID = Geometry.of_spacing(SHAPE, (0.5, 1.5, 4), (10, 20, 30))
HEART = Data(channels={"mr": Channel()}, labels={420: "septum", 205: "wall"})


def image_file(folder, name="a.nii.gz", n_channels=1, grid=GRID):
    array = np.arange(n_channels * np.prod(grid.shape), dtype=np.int16).reshape(n_channels, *grid.shape)
    write_volume(folder / name, Volume(array, grid))
    return folder / name


def label_file(folder, values, grid=GRID, name="label.nii.gz"):
    array = np.zeros(grid.shape, np.uint16)
    array.flat[: len(values)] = values
    write_labels(folder / name, Labels(array, grid))
    return folder / name


def refuse(case, settings):
    with pytest.raises(DataError) as caught:
        load_case(case, settings)
    return caught.value


def test_classes_are_numbered_in_the_order_of_stored_values():
    assert class_values(HEART) == [0, 205, 420]
    assert to_classes(np.array([[[0, 420, 205]]]), HEART).tolist() == [[[0, 2, 1]]]


def test_stored_values_come_back():
    stored = np.array([[[0, 420, 205, 0]]])
    assert np.array_equal(to_stored(to_classes(stored, HEART), HEART), stored)


def test_any_value_but_zero_can_be_one_class():
    data = make_data(labels={1: "nucleus"}, label_map={"nonzero": 1})
    assert to_classes(np.array([[[0, 1, 17, 60000]]]), data).tolist() == [[[0, 1, 1, 1]]]


def test_a_named_value_goes_before_nonzero():
    data = make_data(labels={1: "a", 2: "b"}, label_map={"nonzero": 1, 9: 2, 8: 0})
    assert to_classes(np.array([[[0, 3, 9, 8]]]), data).tolist() == [[[0, 1, 2, 0]]]


def test_zero_can_be_mapped_by_name_only():
    data = make_data(labels={1: "a"}, label_map={"nonzero": 1, 0: 1})
    assert to_classes(np.array([[[0, 3]]]), data).tolist() == [[[1, 1]]]


def test_an_unlisted_value_is_named_with_its_count():
    with pytest.raises(DataError) as caught:
        to_classes(np.array([[[0, 205, 7, 7, 7]]]), HEART)
    assert caught.value.code == "LABEL_VALUE"
    assert caught.value.message.endswith("7 (3 voxels)")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int64])
@pytest.mark.parametrize("high", [7, 120])
def test_any_integer_type_is_mapped(dtype, high):
    data = make_data(labels={1: "a", high: "b"})
    assert to_classes(np.array([[[0, 1]], [[high, 0]]], dtype), data).tolist() == [[[0, 1]], [[2, 0]]]


def test_values_far_apart_are_mapped_too():
    data = make_data(labels={1: "nucleus"}, label_map={"nonzero": 1, -3: 0})
    stored = np.array([[[0, 10**9]], [[-3, 5]]])
    assert to_classes(stored, data).tolist() == [[[0, 1]], [[0, 1]]]


def test_a_negative_value_can_be_mapped():
    data = make_data(labels={1: "a"}, label_map={-100: 0, 100: 1})
    assert to_classes(np.array([[[-100, 100, 0]]], np.int8), data).tolist() == [[[0, 1, 0]]]


def test_a_negative_value_is_unlisted():
    with pytest.raises(DataError, match="-1"):
        to_classes(np.array([[[-1]]], np.int16), HEART)


def test_a_case_is_loaded_as_stored(tmp_path):
    image, label = make_box_case()
    write_volume(tmp_path / "a.nii.gz", image)
    write_labels(tmp_path / "m.nii.gz", label)
    loaded = load_case(Case("a", (tmp_path / "a.nii.gz",), tmp_path / "m.nii.gz"), make_data())
    assert np.array_equal(loaded.image.array, image.array)
    assert np.array_equal(loaded.classes.array, label.array)


def test_a_case_without_a_label_has_no_classes(tmp_path):
    assert load_case(Case("a", (image_file(tmp_path),)), make_data()).classes is None


def test_channels_in_several_files_are_stacked_in_their_order(tmp_path):
    files = (image_file(tmp_path, "b.nii.gz"), image_file(tmp_path, "a.nii.gz", n_channels=2))
    assert load_image(Case("a", files), 3).array[:, 0, 0, 0].tolist() == [0, 0, 24]


def test_channels_may_share_one_file(tmp_path):
    assert load_image(Case("a", (image_file(tmp_path, n_channels=3),)), 3).array.shape == (3, *SHAPE)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_the_number_of_channels_is_that_of_the_pipeline(tmp_path, n_channels):
    with pytest.raises(DataError) as caught:
        load_image(Case("a", (image_file(tmp_path, n_channels=2),)), n_channels)
    assert (caught.value.code, caught.value.message) == (
        "CHANNELS",
        f"the image has 2 channels where the pipeline has {n_channels}",
    )


def test_channels_on_other_grids_are_refused(tmp_path):
    files = (image_file(tmp_path), image_file(tmp_path, "b.nii.gz", grid=GRID.crop((0, 0, 0), (4, 3, 1))))
    with pytest.raises(DataError) as caught:
        load_image(Case("a", files), 2)
    assert caught.value.code == "GRID_MISMATCH"


def test_a_label_on_another_grid_is_refused(tmp_path):
    moved = Geometry.of_spacing(SHAPE, (0.5, 1.5, 4), (10, 20, 30.2))
    error = refuse(Case("a", (image_file(tmp_path),), label_file(tmp_path, [], moved)), HEART)
    assert error.code == "GRID_MISMATCH"
    assert "0.2 mm apart" in error.message


def test_a_label_on_a_grid_that_rounds_to_the_same_is_accepted(tmp_path):
    near = Geometry.of_spacing(SHAPE, (0.5, 1.5, 4), (10, 20, 30.01))
    loaded = load_case(Case("a", (image_file(tmp_path),), label_file(tmp_path, [205], near)), HEART)
    assert loaded.classes.geometry is loaded.image.geometry


def test_a_case_without_files_says_what_to_set():
    error = refuse(Case("a", ()), make_data())
    assert (error.code, error.hint) == ("CHANNEL_MISSING", "check data.channels.<name>.pattern")


def test_a_missing_file_has_a_code_and_no_path(tmp_path):
    error = refuse(Case("a", (tmp_path / "a.nii.gz",)), make_data())
    assert error.code == "FILE_MISSING"
    assert str(tmp_path) not in error.message
