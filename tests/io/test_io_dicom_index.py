"""The index pass over a folder, and the choice of one volume."""

import os

import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.io.dicom import choose_scan, choose_scans, find_series, group_studies, scan_id
from medseg.io.dicom.index import list_tree
from tests.dicom_files import make_uid, write_series


@pytest.fixture
def study(tmp_path):
    """CT (series 1) and MR (series 2) of one study."""
    write_series(tmp_path / "ct")
    write_series(tmp_path / "mr", kind="MR", series=2)
    return tmp_path


def test_every_file_is_listed_once_though_links_lead_to_it_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a" / "one")
    assert [path.name for path in list_tree(tmp_path)] == ["b"]


def test_link_to_nowhere_is_listed_for_it_may_stand_for_a_slice(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert [path.name for path in list_tree(tmp_path)] == ["nowhere"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        list(list_tree(tmp_path))


def test_other_files_are_listed(study):
    (study / "notes.txt").write_text("seen by nobody")
    assert [path.name for path in find_series(study).others] == ["notes.txt"]


def test_series_are_numbered_from_1(study):
    assert [(one.number, one.first.modality) for one in find_series(study).series] == [(1, "CT"), (2, "MR")]


def test_two_series_must_be_chosen_from(study):
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(study))
    assert caught.value.code == "SERIES_AMBIGUOUS"
    assert "[1] CT, axial, 7 x 6 x 5 voxels of 0.75 x 1.25 x 3 mm" in caught.value.message
    assert "[2] MR" in caught.value.message


@pytest.mark.parametrize("series", ["2", make_uid(1, 2)])
def test_series_is_chosen_by_number_or_uid(study, series):
    (scan,) = choose_scans(find_series(study), series=series)
    assert scan.modality == "MR"


def test_unknown_series_is_a_wrong_request(study):
    with pytest.raises(ConfigError) as caught:
        choose_scans(find_series(study), series="3")
    assert caught.value.code == "SERIES_UNKNOWN"


def test_volume_beyond_the_last_is_a_wrong_request(study):
    (found,) = group_studies(find_series(study))
    with pytest.raises(ConfigError) as caught:
        choose_scan(found, series="1", volume=2)
    assert caught.value.code == "VOLUME_UNKNOWN"


def test_each_patient_and_study_gives_a_volume(tmp_path):
    write_series(tmp_path / "a", patient="A", study=1, series=1)
    write_series(tmp_path / "b", patient="B", study=2, series=2)
    assert len(choose_scans(find_series(tmp_path))) == 2


def test_refused_series_still_competes_with_a_good_one(tmp_path):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "mr", kind="MR", series=2)
    (tmp_path / "mr" / "slice_002.dcm").unlink()
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(tmp_path))
    assert "[2] MR, 4 slices, refused (DICOM_GAP)" in caught.value.message


def test_empty_folder_holds_no_case(tmp_path):
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(tmp_path))
    assert caught.value.code == "NO_CASES"


def test_id_is_the_same_for_the_same_series_and_site_only(study):
    scans = [choose_scans(find_series(study), series="1")[0] for _ in range(2)]
    assert scan_id(scans[0], b"key") == scan_id(scans[1], b"key")
    assert scan_id(scans[0], b"key") != scan_id(scans[0], b"other key")


def test_id_holds_twelve_hex_digits_and_nothing_of_the_uid(study):
    (scan,) = choose_scans(find_series(study), series="1")
    prefix, digits = scan_id(scan, b"key").split("-")
    assert prefix == "dcm"
    assert len(digits) == 12
    assert int(digits, 16) >= 0
