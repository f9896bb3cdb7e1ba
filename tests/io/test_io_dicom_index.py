"""The index pass over a folder, and the choice of one volume."""

import os

import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLSLossless

from medseg.core.errors import ConfigError, DataError
from medseg.io.dicom import Options, choose_scan, choose_scans, find_series, group_studies, read_scan, scan_id
from medseg.io.dicom.index import list_tree
from tests.dicom_files import Grid, Ramp, Store, make_uid, write_series


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
    assert [path.name for path in list_tree([tmp_path])] == ["b"]


def test_link_to_nowhere_is_listed_for_it_may_stand_for_a_slice(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert [path.name for path in list_tree([tmp_path])] == ["nowhere"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        list(list_tree([tmp_path]))


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


def test_series_without_any_position_still_competes(tmp_path):
    write_series(tmp_path / "ct", edit=lambda dataset, k: dataset.__delitem__("ImagePositionPatient"))
    write_series(tmp_path / "mr", kind="MR", series=2)
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(tmp_path))
    assert "refused (DICOM_POSITION)" in caught.value.message


def test_slice_of_zeros_without_an_ending_refuses_its_folder(tmp_path):
    write_series(tmp_path, name="{folder}/IM{k:03d}")
    (tmp_path / "IM004").write_bytes(bytes(500))
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(tmp_path))
    assert caught.value.code == "DICOM_DAMAGED"


def test_free_text_of_a_header_is_never_shown(tmp_path):
    def name(dataset, k):
        dataset.Modality, dataset.ImageType = "DOE1955", ["ORIGINAL", "PRIMARY", "JOHN"]

    write_series(tmp_path / "a", edit=name)
    write_series(tmp_path / "b", series=2)
    with pytest.raises(DataError) as caught:
        choose_scans(find_series(tmp_path))
    assert "[1] ?, axial" in caught.value.message
    assert "DOE" not in caught.value.message


def test_volume_with_fewer_slices_than_another_of_its_series_is_told(tmp_path):
    echoes = [
        {"edit": lambda dataset, k, time=time: setattr(dataset, "EchoTime", time)} for time in ("20", "80")
    ]
    write_series(tmp_path, kind="MR", **echoes[0])
    write_series(tmp_path, Grid(at=(0.0, 1.0, 2.0, 3.0)), kind="MR", first=5, **echoes[1])
    (series,) = find_series(tmp_path).series
    codes = [[code for code, _ in one.scan.warnings] for one in series.candidates]
    assert codes == [[], ["DICOM_FEWER_IMAGES"]]


def test_displacement_by_more_than_45_degrees_is_no_tilt(tmp_path):
    write_series(tmp_path, Grid(step_mm=(0.0, 40.0, 3.0)))
    (series,) = find_series(tmp_path, Options(allow_tilt=True)).series
    assert series.candidates[0].error.code == "DICOM_SHIFTED"


def test_announced_count_that_is_no_number_says_nothing(tmp_path):
    def announce(dataset, k):
        dataset.add_new("ImagesInAcquisition", "LO", "²")

    write_series(tmp_path, edit=announce)
    (scan,) = choose_scans(find_series(tmp_path))
    assert scan.warnings == ()


def test_rescale_beyond_float32_is_refused(tmp_path):
    write_series(tmp_path, edit=lambda dataset, k: setattr(dataset, "RescaleIntercept", "1e39"))
    (series,) = find_series(tmp_path).series
    assert series.candidates[0].error.code == "DICOM_RESCALE"


def test_two_compressed_streams_in_a_file_of_one_frame_are_refused(tmp_path):
    def double(dataset, k):
        (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
        dataset.PixelData = encapsulate([stream, stream])

    write_series(tmp_path, store=Store(syntax=JPEGLSLossless), edit=double)
    (scan,) = choose_scans(find_series(tmp_path))
    with pytest.raises(DataError) as caught:
        read_scan(scan)
    assert caught.value.code == "DICOM_DECODE"


def test_same_bytes_of_another_sign_are_no_copy(tmp_path):
    def sign(dataset, k):
        dataset.SOPInstanceUID = make_uid(9, 9, k + 1)
        dataset.PixelRepresentation = 1

    write_series(tmp_path, ramp=Ramp(base=40000.0), name="{folder}/a{k}.dcm")
    write_series(tmp_path, ramp=Ramp(base=40000.0), name="{folder}/b{k}.dcm", edit=sign)
    (series,) = find_series(tmp_path).series
    assert "DICOM_DUPLICATE" not in str([candidate.scan for candidate in series.candidates])


def test_files_given_one_by_one_and_twice_are_one_series(tmp_path):
    write_series(tmp_path)
    paths = sorted(tmp_path.iterdir())
    (scan,) = choose_scans(find_series([*paths, tmp_path]))
    assert len(scan.frames) == 5


def test_private_b_value_of_unknown_type_is_read_as_text(tmp_path):
    def weigh(value):
        return lambda dataset, k: dataset.add_new(0x00431039, "UN", value)

    write_series(tmp_path, kind="MR", edit=weigh(b"0\\8\\0 "))
    write_series(tmp_path, kind="MR", first=5, edit=weigh(b"1000\\8\\0\0"))
    (series,) = find_series(tmp_path).series
    assert [one.scan.label for one in series.candidates] == ["b 0", "b 1000"]


def test_pet_with_fewer_slices_than_it_announces_is_told(tmp_path):
    write_series(tmp_path, kind="PT", edit=lambda dataset, k: setattr(dataset, "NumberOfSlices", 6))
    (scan,) = choose_scans(find_series(tmp_path))
    assert [code for code, _ in scan.warnings] == ["DICOM_FEWER_IMAGES"]
