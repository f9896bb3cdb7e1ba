import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.data.inputs import find_inputs
from medseg.data.studies import Wanted
from tests.builders import make_data


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(*paths, n_channels=1):
    return {
        case.id: [file.name for file in case.images] for case in find_inputs(paths, make_data(n_channels))
    }


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".tiff"])
def test_the_id_of_a_file_is_its_name_without_the_suffix(tmp_path, suffix):
    touch(tmp_path, f"a.b{suffix}")
    assert listed(tmp_path / f"a.b{suffix}") == {"a.b": [f"a.b{suffix}"]}


def test_a_folder_of_images_is_a_case_a_file(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.png", "notes.txt", ".c.png")
    assert listed(tmp_path) == {"a": ["a.nii.gz"], "b": ["b.png"]}


def test_numbered_files_are_channels(tmp_path):
    touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz")
    assert listed(tmp_path, n_channels=2) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}


def test_a_folder_of_folders_is_a_case_a_patient(tmp_path):
    touch(
        tmp_path, "p1/x_c0.nii.gz", "p1/x_c1.nii.gz", "p2/x_c1.nii.gz", "p2/x_c0.nii.gz", ".cache/c0.nii.gz"
    )
    files = ["x_c0.nii.gz", "x_c1.nii.gz"]
    assert listed(tmp_path, n_channels=2) == {"p1": files, "p2": files}


def test_a_label_beside_the_scan_is_not_segmented(tmp_path):
    touch(tmp_path, "p1/scan.nii.gz", "p1/mask.nii.gz")
    assert listed(tmp_path) == {"p1": ["scan.nii.gz"]}


def test_a_patient_whose_channel_is_missing_is_reported_not_lost(tmp_path):
    touch(tmp_path, "p1/x_c0.nii.gz")
    assert listed(tmp_path, n_channels=2) == {"p1": []}


def test_a_table_needs_no_labels(tmp_path):
    (touch(tmp_path, "a.nii.gz") / "t.csv").write_text("id,c0\nx,a.nii.gz\n")
    assert listed(tmp_path / "t.csv") == {"x": ["a.nii.gz"]}


def test_several_inputs_are_joined_in_order_of_id(tmp_path):
    touch(tmp_path, "z.nii.gz", "more/a.nii.gz")
    assert list(listed(tmp_path / "z.nii.gz", tmp_path / "more")) == ["a", "z"]


def test_one_id_from_two_inputs_is_refused(tmp_path):
    touch(tmp_path, "a.nii.gz", "more/a.nii.gz")
    with pytest.raises(DataError) as caught:
        listed(tmp_path / "a.nii.gz", tmp_path / "more")
    assert caught.value.code == "DUPLICATE_ID"


@pytest.mark.parametrize(("name", "code"), [("nowhere.nii.gz", "INPUT_MISSING"), ("a.txt", "FORMAT_UNKNOWN")])
def test_what_is_no_image_is_a_usage_error(tmp_path, name, code):
    touch(tmp_path, "a.txt")
    with pytest.raises(ConfigError) as caught:
        listed(tmp_path / name)
    assert caught.value.code == code


def test_an_empty_folder_holds_no_case(tmp_path):
    with pytest.raises(DataError) as caught:
        listed(tmp_path)
    assert caught.value.code == "NO_CASES"


def test_a_patient_folder_without_a_readable_image_is_reported_not_lost(tmp_path):
    touch(tmp_path, "p1/scan.nii", "p2/scan.dcm")
    assert [len(case.images) for case in find_inputs([tmp_path], make_data())] == [1, 0]


@pytest.mark.parametrize(
    "wanted", [Wanted(volume=2), Wanted(allow_tilt=True), Wanted(slice_thickness_mm=2.0)]
)
def test_options_for_dicom_are_not_ignored_where_no_input_is(tmp_path, wanted):
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(ConfigError) as caught:
        find_inputs([tmp_path], make_data(), wanted=wanted)
    assert caught.value.code == "OPTION_NEEDS_DICOM"
