import hashlib

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.core.volume import Labels, Volume
from medseg.data import store
from medseg.data.preprocess import preprocess_classes, preprocess_image
from medseg.data.store import StoredCase, is_stored, write_case
from medseg.io import read_labels, write_volume
from tests.builders import STORAGES, make_box_case, make_plan, restore, store_box_case


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_arrays_come_back_as_they_were(tmp_path):
    image, label = make_box_case()
    case = store_box_case(tmp_path / "store" / "a")
    assert np.array_equal(case.image[:], image.array.astype(np.float16))
    assert np.array_equal(case.label[:], label.array)
    assert (case.image.dtype, case.label.dtype) == (np.float16, np.uint8)
    assert (case.id, case.shape) == ("a", (9, 8, 7))


def test_arrays_larger_than_a_block_come_back_too(tmp_path):
    case = store_box_case(tmp_path / "store" / "a", shape=(140, 33, 5))
    image, _ = make_box_case((140, 33, 5))
    assert np.array_equal(case.image[:], image.array.astype(np.float16))
    assert np.array_equal(
        case.image[:, 100:139, 30:33, 2:3], image.array[:, 100:139, 30:33, 2:3].astype(np.float16)
    )


def test_the_placement_comes_back(tmp_path):
    image, _ = make_box_case()
    image.array[:, :2] = 0
    _, placement = preprocess_image(image, make_plan())
    stored = tmp_path / "store" / "a"
    write_volume(tmp_path / "a.nii.gz", image)
    _, label = make_box_case()
    arrays = preprocess_image(image, make_plan())[0], preprocess_classes(label.array, placement)
    write_case(stored, "key", arrays, placement, label, tmp_path / "a.nii.gz")
    back = StoredCase(stored).placement
    assert (back.start, back.stop) == (placement.start, placement.stop)
    for name in ("original", "canonical", "grid"):
        assert np.array_equal(getattr(back, name).affine, getattr(placement, name).affine)
        assert getattr(back, name).shape == getattr(placement, name).shape


def test_the_reference_is_the_label_as_stored(tmp_path):
    image, label = make_box_case()
    stored, grid = restore(image.array, image.geometry, STORAGES[23])
    reference = Labels(restore(label.array, label.geometry, STORAGES[23])[0].astype(np.uint16) * 210, grid)
    write_volume(tmp_path / "a.nii.gz", Volume(stored, grid))
    array, placement = preprocess_image(Volume(stored, grid), make_plan())
    write_case(tmp_path / "s", "k", (array, label.array), placement, reference, tmp_path / "a.nii.gz")
    back = read_labels(StoredCase(tmp_path / "s").reference)
    assert np.array_equal(back.array, reference.array)
    assert back.geometry.differs_from(grid, 1e-3) == ""


@pytest.mark.parametrize(("name", "reference"), [("a.png", "reference.png"), ("a.mha", "reference.nii.gz")])
def test_a_picture_has_a_picture_as_reference(tmp_path, name, reference):
    image, label = make_box_case((9, 8, 7))
    flat = Volume(image.array[..., :1].astype(np.uint8), image.geometry.crop((0, 0, 0), (9, 8, 1)))
    write_volume(tmp_path / name, flat)
    flat = store_read(tmp_path / name)
    array, placement = preprocess_image(flat, make_plan())
    classes = label.array[..., 3:4]
    cropped = preprocess_classes(classes, placement)
    write_case(
        tmp_path / "s", "k", (array, cropped), placement, Labels(classes, flat.geometry), tmp_path / name
    )
    assert StoredCase(tmp_path / "s").reference.name == reference


def store_read(path):
    from medseg.io import read_volume

    return read_volume(path)


def test_written_twice_the_bytes_are_equal(tmp_path):
    first = store_box_case(tmp_path / "one" / "a", shape=(70, 40, 9))
    second = store_box_case(tmp_path / "two" / "a", shape=(70, 40, 9))
    assert hashes(first.folder) == hashes(second.folder)
    assert len(hashes(first.folder)) == 4


def test_a_stored_case_is_for_its_owner_only(tmp_path):
    folder = store_box_case(tmp_path / "store" / "a").folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_points_lie_in_their_label(tmp_path):
    _, label = make_box_case()
    points = store_box_case(tmp_path / "store" / "a").points
    assert set(points) == {1, 2}
    assert points[2].tolist() == [[3, 3, 3]]
    assert len(points[1]) == 23
    assert (label.array[tuple(points[1].T)] == 1).all()


def test_a_large_label_is_sampled_without_repeats(tmp_path):
    _, label = make_box_case((20, 20, 20))
    label.array[...] = 1
    points = store._list_points(label.array)["points"]
    assert list(points) == ["1"]
    assert len(set(points["1"])) == store.POINTS


def test_background_has_no_points():
    assert store._list_points(np.zeros((3, 4, 5), np.uint8)) == {"points": {}}


def test_a_case_is_stored_under_its_key(tmp_path):
    store_box_case(tmp_path / "a")
    assert is_stored(tmp_path, "a", "key")
    assert not is_stored(tmp_path, "a", "another key")
    assert not is_stored(tmp_path, "b", "key")


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "case.json"])
def test_a_case_that_lacks_a_file_is_not_stored(tmp_path, name):
    (store_box_case(tmp_path / "a").folder / name).unlink()
    assert not is_stored(tmp_path, "a", "key")


def test_a_missing_array_has_a_code(tmp_path):
    case = store_box_case(tmp_path / "a")
    (case.folder / "image.b2nd").unlink()
    with pytest.raises(DataError) as caught:
        _ = StoredCase(case.folder).image
    assert caught.value.code == "STORE_DAMAGED"


def test_a_new_version_replaces_the_whole_folder(tmp_path):
    case = store_box_case(tmp_path / "a")
    (case.folder / "reference.png").touch()
    store_box_case(tmp_path / "a", shape=(10, 9, 8))
    assert StoredCase(case.folder).shape == (10, 9, 8)
    assert len(list(case.folder.iterdir())) == 4


def test_a_failed_write_leaves_the_old_case(tmp_path, monkeypatch):
    case = store_box_case(tmp_path / "store" / "a")
    before = hashes(case.folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(store, "write_labels", fail)
    with pytest.raises(OSError, match="disk full"):
        store_box_case(tmp_path / "store" / "a", shape=(10, 9, 8))
    assert hashes(case.folder) == before
    assert {path.name for path in case.folder.parent.iterdir()} == {"a", "source"}
