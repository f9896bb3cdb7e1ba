from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import DataError, ResourceError
from medseg.core.files import to_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.data import checks
from medseg.data.cases import Case
from medseg.data.checks import check_case, hash_files, nonzero_box, require_unchanged, screen_cohort
from medseg.io import write_labels, write_volume
from tests.builders import STORAGES, make_box_case, make_data, make_record, restore

DATA = make_data()


def write_case_files(folder, name, image, label):
    files = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    write_volume(files[0], image)
    write_labels(files[1], label)
    return Case(name, (files[0],), files[1])


def stored_as(image, label, storage):
    array, grid = restore(image.array, image.geometry, storage)
    return Volume(array, grid), Labels(restore(label.array, label.geometry, storage)[0], grid)


@pytest.fixture
def case(tmp_path):
    return write_case_files(tmp_path, "a", *make_box_case())


def test_a_good_case_is_usable_and_counted(case):
    record = check_case(case, DATA)
    assert record.is_usable
    assert record.voxels == (9 * 8 * 7 - 24, 23, 1)  # a box of 4 x 3 x 2 that holds one voxel of label 2
    assert record.voxel_volume_mm3 == pytest.approx(0.75 * 1.5 * 3)
    assert record.warnings == ()


def test_grid_and_orientation_are_recorded(tmp_path):
    image, label = stored_as(*make_box_case(), ((2, 0, 1), (True, False, False)))
    record = check_case(write_case_files(tmp_path, "a", image, label), DATA)
    assert (record.stored_shape, record.orientation) == ((7, 9, 8), "IRA")
    assert (record.shape, record.spacing_mm) == ((9, 8, 7), (0.75, 1.5, 3.0))


def test_the_shape_is_that_of_the_nonzero_box(tmp_path):
    image, label = make_box_case()
    image.array[:, :2] = image.array[:, :, -1:] = 0
    assert check_case(write_case_files(tmp_path, "a", image, label), DATA).shape == (7, 7, 7)


def test_intensities_are_those_of_the_foreground_sorted(case):
    image, label = make_box_case()
    (sample,) = check_case(case, DATA).intensities
    assert list(sample) == sorted(image.array[0][label.array > 0].tolist())


def test_large_foregrounds_are_sampled_the_same_every_time(tmp_path):
    image, label = make_box_case((20, 20, 20))
    label.array[...] = 1
    case = write_case_files(tmp_path, "a", image, label)
    first, again, other = (check_case(case, DATA, seed).intensities[0] for seed in (0, 0, 1))
    assert len(first) == checks.SAMPLES
    assert first == again != other


def test_a_record_can_be_stored_as_json(case):
    assert '"id": "a"' in to_json(check_case(case, DATA).to_json())


def test_nothing_depends_on_how_a_scan_is_stored(tmp_path):
    image, label = make_box_case((20, 20, 20))
    label.array[2:, 2:, 2:] = 1
    image.array[:, :1] = 0
    records = set()
    for index, storage in enumerate(STORAGES[::7]):
        stored = stored_as(image, label, storage)
        record = check_case(write_case_files(tmp_path, f"{index}", *stored), DATA)
        same = {
            "id": "",
            "patient": "",
            "orientation": "",
            "input_sha256": "",
            "label_sha256": "",
            "stored_shape": (),
        }
        records.add(replace(record, **same))
    assert len(records) == 1


# --- what is refused, each with its code -------------------------------------------------------


def refused(case, settings=DATA):
    record = check_case(case, settings)
    assert not record.is_usable
    assert record.message
    return record.code


def test_a_missing_label(case):
    assert refused(replace(case, label=None)) == "LABEL_MISSING"


def test_a_missing_image(case):
    assert refused(replace(case, images=())) == "CHANNEL_MISSING"


def test_a_file_that_is_gone(case):
    case.images[0].unlink()
    assert refused(case) == "FILE_MISSING"


def test_a_file_that_cannot_be_opened(case, monkeypatch):
    def deny(path):
        raise PermissionError

    monkeypatch.setattr(checks, "sha256_of_file", deny)
    assert hash_files(case)[1] == ""
    case.images[0].unlink()
    case.images[0].mkdir()
    assert refused(case) == "FILE_UNREADABLE"


def test_a_damaged_file(case):
    case.images[0].write_bytes(case.images[0].read_bytes()[:-20])
    assert refused(case) == "NII_TRUNCATED"


def test_an_unlisted_label_value(case):
    assert refused(case, make_data(labels={1: "organ"})) == "LABEL_VALUE"


def test_too_many_channels(case):
    assert refused(case, make_data(2)) == "CHANNELS"


def test_a_label_on_another_grid(tmp_path, case):
    image, label = make_box_case(spacing_mm=(1, 1, 1))
    other = write_case_files(tmp_path, "b", image, label)
    assert refused(replace(case, label=other.label)) == "GRID_MISMATCH"


@pytest.mark.parametrize("value", [0, -1000])
def test_an_image_of_one_value(tmp_path, value):
    image, label = make_box_case()
    image.array[...] = value
    record = check_case(write_case_files(tmp_path, "a", image, label), DATA)
    assert (record.code, record.message) == ("IMAGE_CONSTANT", f"every voxel of the image is {value}")


def test_an_empty_label_is_a_warning(tmp_path):
    image, label = make_box_case()
    label.array[...] = 0
    record = check_case(write_case_files(tmp_path, "a", image, label), DATA)
    assert record.is_usable
    assert [code for code, _ in record.warnings] == ["LABEL_EMPTY"]
    assert record.intensities == ((),)


def test_trouble_with_the_machine_is_not_blamed_on_the_case(case, monkeypatch):
    def fail(*_):
        raise ResourceError("disk full")

    monkeypatch.setattr(checks, "load_case", fail)
    with pytest.raises(ResourceError):
        check_case(case, DATA)


def test_hashes_follow_the_content_of_all_channels(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    one = hash_files(Case("x", (tmp_path / "a",)))
    two = hash_files(Case("x", (tmp_path / "a", tmp_path / "b"), tmp_path / "a"))
    assert one == ("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "")  # SHA-256 of "a"
    assert one[0] != two[0]
    assert two[1] == one[0]


# --- the cohort as a whole ---------------------------------------------------------------------


@pytest.mark.parametrize("storage", [STORAGES[0], STORAGES[13], STORAGES[47]])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_copy_is_found_in_any_orientation_and_type(tmp_path, storage, dtype):
    image, label = make_box_case()
    first = check_case(write_case_files(tmp_path, "a", image, label), DATA)
    copy, copied_label = stored_as(Volume(image.array.astype(dtype), image.geometry), label, storage)
    second = check_case(write_case_files(tmp_path, "b", copy, copied_label), DATA)
    records = screen_cohort([second, first])
    assert [(record.id, record.code) for record in records] == [("a", ""), ("b", "DUPLICATE_IMAGE")]
    assert "case a" in records[1].message


def test_one_voxel_makes_another_image(tmp_path):
    image, label = make_box_case()
    first = check_case(write_case_files(tmp_path, "a", image, label), DATA)
    image.array[0, 0, 0, 0] += 1
    second = check_case(write_case_files(tmp_path, "b", image, label), DATA)
    assert all(record.is_usable for record in screen_cohort([first, second]))


def test_the_same_values_in_another_shape_are_another_image(tmp_path):
    records = []
    for name, shape in (("a", (9, 8, 7)), ("b", (7, 8, 9))):
        image = Volume(
            np.arange(504, dtype=np.int16).reshape(1, *shape), Geometry.of_spacing(shape, (1, 2, 3))
        )
        label = Labels(np.ones(shape, np.uint8), image.geometry)
        records.append(check_case(write_case_files(tmp_path, name, image, label), DATA))
    assert all(record.is_usable for record in screen_cohort(records))


def test_refused_cases_are_no_duplicates_of_each_other():
    records = [make_record(name, code="FORMAT", pixels_sha256="") for name in "ab"]
    assert [record.code for record in screen_cohort(records)] == ["FORMAT", "FORMAT"]


@given(st.data())
def test_the_nonzero_box_is_the_smallest_that_holds_all(data):
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    image = np.zeros((2, *shape))
    count = data.draw(st.integers(1, 4))
    where = [tuple(data.draw(st.integers(0, n - 1)) for n in image.shape) for _ in range(count)]
    for index in where:
        image[index] = -1
    points = np.array(where)[:, 1:]
    start, stop = nonzero_box(image)
    assert start == tuple(points.min(axis=0))
    assert stop == tuple(points.max(axis=0) + 1)


def test_an_image_of_zeros_keeps_its_grid():
    assert nonzero_box(np.zeros((1, 4, 3, 2))) == ((0, 0, 0), (4, 3, 2))


def test_the_hash_of_a_detached_header_covers_its_voxels(tmp_path):
    header = "NDims = 3\nDimSize = 2 2 1\nElementType = MET_UCHAR\nElementSpacing = 1 1 2\n"
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(header)
    found = set()
    for voxels in (b"\0\1\2\3", b"\0\1\2\4"):
        (tmp_path / "a.raw").write_bytes(voxels)
        found.add(hash_files(Case("a", (tmp_path / "a.mhd",)))[0])
    assert len(found) == 2 and "" not in found


def test_files_that_changed_since_they_were_hashed_are_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"one")
    case = Case("a", (tmp_path / "a.nii.gz",))
    before = hash_files(case)[0]
    require_unchanged(case, before)
    (tmp_path / "a.nii.gz").write_bytes(b"two")
    with pytest.raises(DataError) as caught:
        require_unchanged(case, before)
    assert caught.value.code == "FILE_CHANGED"
