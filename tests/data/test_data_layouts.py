import json

import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import MAPS
from medseg.data.layouts import LAYOUTS, channel_files, find_cohort, list_masks
from tests.builders import make_data
from tests.dicom_files import write_series


def touch(root, *names):
    """Listing a cohort opens no image: empty files will do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_dataset_json(root, *entries, **more):
    (root / "dataset.json").write_text(json.dumps({"training": list(entries), **more}))
    return root


def listed(root, n_channels=1, **changes):
    """Return {id: (image names, label name)} and the layout's name."""
    layout, cases = find_cohort(root, make_data(n_channels, **changes))
    names = {
        case.id: ([path.relative_to(root).as_posix() for path in case.images], case.label and case.label.name)
        for case in cases
    }
    return layout, names


def refuse(root, kind=DataError, n_channels=1, **changes):
    with pytest.raises(kind) as caught:
        find_cohort(root, make_data(n_channels, **changes))
    return caught.value


def make_table(root):
    touch(root, "images/a.nii.gz", "b.nii.gz", "labels/a.nii.gz")
    (root / "cases.csv").write_text("id,c0,label\na,images/a.nii.gz,labels/a.nii.gz\nb,b.nii.gz,\n")
    return root / "cases.csv"


def make_msd(root):
    touch(root, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    return write_dataset_json(root, {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"})


def make_nnunet(root):
    return touch(root, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")


def make_folders(root):
    return touch(root, "images/a.png", "masks/a.png")


def make_bids(root):
    return touch(root, "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/x/sub-1/anat/sub-1_dseg.nii.gz")


def make_dicom(root):
    write_series(root / "p1/ct")
    return root


def make_patients(root):
    return touch(root, "p1/image.nii.gz", "p1/mask.nii.gz")


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_recognised_and_no_other_one_before_it(tmp_path, name):
    root = globals()[f"make_{name}"](tmp_path)
    assert find_cohort(root, make_data(), lambda: b"key")[0] == name


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_can_be_named(tmp_path, name):
    root = globals()[f"make_{name}"](tmp_path)
    assert find_cohort(root, make_data(layout=name), lambda: b"key")[0] == name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_named_layout_that_does_not_fit_is_refused(tmp_path, name):
    touch(tmp_path, "notes.txt")
    error = refuse(tmp_path, ConfigError, layout=name)
    assert (error.code, error.message) == ("LAYOUT_UNKNOWN", f"layout `{name}` does not fit")


def test_a_folder_like_none_is_refused_with_all_that_are_known(tmp_path):
    error = refuse(touch(tmp_path, "notes.txt"), ConfigError)
    assert error.code == "LAYOUT_UNKNOWN"
    assert all(name in error.hint for name in LAYOUTS)


def test_a_single_image_is_no_cohort(tmp_path):
    assert refuse(touch(tmp_path, "a.nii.gz") / "a.nii.gz", ConfigError).code == "LAYOUT_UNKNOWN"


def test_nothing_there_is_said_so(tmp_path):
    assert refuse(tmp_path / "nowhere", ConfigError).code == "DATA_MISSING"


def test_an_unknown_layout_names_the_nearest(tmp_path):
    assert refuse(tmp_path, ConfigError, layout="nnunt").hint == "did you mean `nnunet`?"


def test_groups_come_from_the_ids(tmp_path):
    touch(tmp_path, "images/p1_l.png", "images/p1_r.png", "labels/p1_l.png", "labels/p1_r.png")
    _, cases = find_cohort(tmp_path, make_data(group_pattern=r"^(p\d+)"))
    assert [case.patient for case in cases] == ["p1", "p1"]


# --- MSD ---------------------------------------------------------------------------------------


def test_msd_lists_what_its_json_lists(tmp_path):
    make_msd(touch(tmp_path, "imagesTr/unlisted.nii.gz", "labelsTr/unlisted.nii.gz"))
    assert listed(tmp_path) == ("msd", {"a": (["imagesTr/a.nii.gz"], "a.nii.gz")})


@pytest.mark.parametrize("name", ["../a.nii.gz", "/etc/a.nii.gz", "imagesTr/../../a.nii.gz"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_msd_cannot_name_files_outside_its_folder(tmp_path, name, key):
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", key: name}
    error = refuse(write_dataset_json(tmp_path, entry))
    assert error.code == "PATH_OUTSIDE_DATA"
    assert error.message.startswith("entry 1 of `training` names a path")


@pytest.mark.parametrize("entry", ["a.nii.gz", {"image": "a.nii.gz"}, {"image": 1, "label": 2}, None])
def test_an_msd_entry_without_image_and_label_is_named(tmp_path, entry):
    good = {"image": "a.nii.gz", "label": "b.nii.gz"}
    error = refuse(write_dataset_json(tmp_path, good, entry))
    assert error.code == "TABLE_INVALID"
    assert "entry 2" in error.message


def test_broken_json_is_not_taken_for_another_layout(tmp_path):
    make_folders(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    assert refuse(tmp_path).code == "JSON_INVALID"


@pytest.mark.parametrize("content", ["[]", '{"training": 20}'])
def test_another_tools_dataset_json_is_ignored(tmp_path, content):
    make_folders(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    assert listed(tmp_path)[0] == "folders"


def test_two_images_of_one_name_are_refused(tmp_path):
    entries = [{"image": f"{x}/a.nii.gz", "label": f"{x}/b.nii.gz"} for x in ("x", "y")]
    assert refuse(write_dataset_json(tmp_path, *entries)).code == "DUPLICATE_ID"


def test_msd_with_numbered_ids_is_not_taken_for_nnunet(tmp_path):
    names = [f"case_000{n}.nii.gz" for n in range(2)]
    touch(tmp_path, *[f"{folder}/{name}" for folder in ("imagesTr", "labelsTr") for name in names])
    write_dataset_json(tmp_path, *[{"image": f"imagesTr/{n}", "label": f"labelsTr/{n}"} for n in names])
    layout, names = listed(tmp_path)
    assert (layout, list(names)) == ("msd", ["case_0000", "case_0001"])


# --- nnU-Net -----------------------------------------------------------------------------------


def test_nnunet_channels_are_stacked_in_order(tmp_path):
    touch(tmp_path, *[f"imagesTr/a_000{n}.nii.gz" for n in (1, 0, 2)], "labelsTr/a.nii.gz")
    files = [f"imagesTr/a_000{n}.nii.gz" for n in (0, 1, 2)]
    assert listed(tmp_path, n_channels=3) == ("nnunet", {"a": (files, "a.nii.gz")})


def test_nnunet_1_is_read_by_its_files_not_by_its_json(tmp_path):
    # Its dataset.json lists images without their channel's number.
    write_dataset_json(make_nnunet(tmp_path), {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"})
    assert listed(tmp_path) == ("nnunet", {"a": (["imagesTr/a_0000.nii.gz"], "a.nii.gz")})


def test_an_nnunet_image_without_a_label_is_listed_without_one(tmp_path):
    touch(make_nnunet(tmp_path), "imagesTr/b_0000.nii.gz")
    assert listed(tmp_path)[1]["b"] == (["imagesTr/b_0000.nii.gz"], None)


@pytest.mark.parametrize(
    ("names", "n_channels", "ids"),
    [
        (["a_0000.nii", "a_0001.nii"], 2, {"a": 2}),
        (["a_0000.nii", "b_0000.nii"], 1, {"a": 1, "b": 1}),
        (["scan_2021.nii"], 1, {"scan_2021": 1}),
        (
            ["scan_0000.nii", "scan_0001.nii", "scan_0002.nii"],
            1,
            {"scan_0000": 1, "scan_0001": 1, "scan_0002": 1},
        ),
        (["a_0000.nii", "a_0001.nii", "a_0002.nii"], 2, {"a_0000": 1, "a_0001": 1, "a_0002": 1}),
        (["a.nii"], 1, {"a": 1}),
        (["a_000.nii", "a_00001.nii"], 2, {"a_000": 1, "a_00001": 1}),
    ],
)
def test_a_number_is_a_channel_only_where_all_can_be(tmp_path, names, n_channels, ids):
    touch(tmp_path, *names)
    files = channel_files([tmp_path / name for name in names], n_channels)
    assert {name: len(paths) for name, paths in files} == ids


# --- two folders -------------------------------------------------------------------------------


def test_images_and_labels_are_paired_by_name_across_formats_and_none_is_dropped(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.png", "instances/a.png", "instances/c.png")
    assert listed(tmp_path) == (
        "folders",
        {"a": (["images/a.tif"], "a.png"), "b": (["images/b.png"], None), "c": ([], "c.png")},
    )


def test_numbered_pictures_with_labels_of_the_same_number_are_cases(tmp_path):
    touch(tmp_path, *[f"{folder}/x_000{n}.png" for folder in ("images", "masks") for n in range(2)])
    _, names = listed(tmp_path, n_channels=2)
    assert {name: label for name, (_, label) in names.items()} == {
        "x_0000": "x_0000.png",
        "x_0001": "x_0001.png",
    }


def test_hidden_files_and_other_files_are_no_cases(tmp_path):
    touch(make_folders(tmp_path), "images/._b.png", "images/.DS_Store", "images/readme.txt")
    assert list(listed(tmp_path)[1]) == ["a"]


def test_unsafe_file_names_become_safe_ids(tmp_path):
    touch(tmp_path, "images/Anna Müller (2).png", "masks/Anna Müller (2).png")
    assert listed(tmp_path)[1] == {"Anna_M_ller__2_": (["images/Anna Müller (2).png"], "Anna Müller (2).png")}


@pytest.mark.parametrize(
    "names",
    [
        ("images/a b.png", "images/a_b.png", "masks/a_b.png"),
        ("images/a.png", "images/a.tif", "masks/a.png"),
        ("images/a.png", "images/a_0000.png", "masks/a.png"),
        ("images/a.png", "masks/a.png", "masks/a.tif"),
    ],
)
def test_names_that_become_one_id_are_refused(tmp_path, names):
    assert refuse(touch(tmp_path, *names), n_channels=2).code == "DUPLICATE_ID"


def test_two_label_folders_are_ambiguous(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png", "labels/a.png")
    assert refuse(tmp_path, ConfigError, layout="folders").code == "LAYOUT_UNKNOWN"


# --- patients ----------------------------------------------------------------------------------


def test_patient_folders_are_read_by_the_patterns_of_their_channels(tmp_path):
    touch(tmp_path, "p1/x_c0.nii.gz", "p1/x_c1.nii.gz", "p1/seg.nii.gz")
    assert listed(tmp_path, n_channels=2, label_pattern="seg*") == (
        "patients",
        {"p1": (["p1/x_c0.nii.gz", "p1/x_c1.nii.gz"], "seg.nii.gz")},
    )


def test_the_label_is_no_channel_of_its_patient(tmp_path):
    assert listed(make_patients(tmp_path))[1]["p1"][0] == ["p1/image.nii.gz"]


@pytest.mark.parametrize("more", [["p1/x_c0_again.nii.gz", "p1/x_c1.nii.gz"], []])
def test_a_channel_with_no_or_two_files_leaves_the_case_without_images(tmp_path, more):
    touch(tmp_path, "p1/x_c0.nii.gz", "p1/mask.nii.gz", *more)
    assert listed(tmp_path, n_channels=2)[1]["p1"] == ([], "mask.nii.gz")


def test_two_labels_leave_the_case_without_one(tmp_path):
    touch(make_patients(tmp_path), "p1/mask2.nii.gz")
    assert listed(tmp_path)[1]["p1"][1] is None


def test_hidden_folders_are_no_patients(tmp_path):
    touch(make_patients(tmp_path), ".cache/image.nii.gz")
    assert list(listed(tmp_path)[1]) == ["p1"]


# --- BIDS --------------------------------------------------------------------------------------


def test_bids_sessions_are_cases_of_one_patient(tmp_path):
    for session in ("ses-1", "ses-2"):
        name = f"sub-1_{session}"
        touch(tmp_path, f"sub-1/{session}/anat/{name}_T1w.nii.gz")
        touch(tmp_path, f"derivatives/manual/sub-1/{session}/{name}_dseg.nii.gz")
    _, cases = find_cohort(tmp_path, make_data())
    assert [(case.id, case.patient, case.label.name) for case in cases] == [
        ("sub-1_ses-1", "sub-1", "sub-1_ses-1_dseg.nii.gz"),
        ("sub-1_ses-2", "sub-1", "sub-1_ses-2_dseg.nii.gz"),
    ]


def test_bids_subject_1_does_not_get_the_label_of_subject_10(tmp_path):
    touch(make_bids(tmp_path), "sub-10/anat/sub-10_T1w.nii.gz", "derivatives/x/sub-10_dseg.nii.gz")
    assert {case: label for case, (_, label) in listed(tmp_path)[1].items()} == {
        "sub-1": "sub-1_dseg.nii.gz",
        "sub-10": "sub-10_dseg.nii.gz",
    }


def test_bids_folders_of_another_modality_are_passed_over(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_c0.nii.gz",
        "sub-1/func/sub-1_bold.nii.gz",
        "derivatives/sub-1_mask.nii.gz",
    )
    data = {"channels": {"t1": {"pattern": "*c0*"}}}
    assert listed(tmp_path, **data)[1] == {"sub-1": (["sub-1/anat/sub-1_c0.nii.gz"], "sub-1_mask.nii.gz")}


@pytest.mark.parametrize("name", ["sub-2/anat/sub-2_T2w.nii.gz", "sub-2/func/sub-2_bold.nii.gz"])
def test_a_bids_subject_without_its_image_is_listed_not_lost(tmp_path, name):
    touch(tmp_path, "sub-1/anat/sub-1_c0.nii.gz", name, "derivatives/sub-2_mask.nii.gz")
    cases = listed(tmp_path, channels={"t1": {"pattern": "*c0*"}})[1]
    assert cases["sub-2"] == ([], "sub-2_mask.nii.gz")


# --- tables ------------------------------------------------------------------------------------


def write_table(root, name, text):
    path = touch(root, "a.nii.gz", "b.nii.gz", "m.nii.gz") / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,c0,c1,label,group\nx,a.nii.gz,b.nii.gz,m.nii.gz,p\n"),
        ("t.csv", "\ufeffgroup,label,c1,c0,id\r\np,m.nii.gz,b.nii.gz,a.nii.gz,x\r\n"),
        ("t.json", '[{"id": "x", "c0": "a.nii.gz", "c1": "b.nii.gz", "label": "m.nii.gz", "group": "p"}]'),
    ],
)
def test_a_table_names_id_channels_label_and_group(tmp_path, name, text):
    _, (case,) = find_cohort(write_table(tmp_path, name, text), make_data(2))
    names = [path.name for path in case.images]
    assert (case.id, names, case.label.name, case.group) == ("x", ["a.nii.gz", "b.nii.gz"], "m.nii.gz", "p")


def test_label_and_group_may_be_left_out(tmp_path):
    _, (case,) = find_cohort(write_table(tmp_path, "t.csv", "id,c0\nx,a.nii.gz\n"), make_data())
    assert (case.label, case.patient) == (None, "x")


def test_without_a_group_column_the_pattern_names_the_patient(tmp_path):
    path = write_table(tmp_path, "t.csv", "id,c0\np1_l,a.nii.gz\np1_r,b.nii.gz\n")
    _, cases = find_cohort(path, make_data(group_pattern=r"^(p\d)"))
    assert [case.patient for case in cases] == ["p1", "p1"]


def test_channels_in_one_file_name_it_once(tmp_path):
    _, (case,) = find_cohort(write_table(tmp_path, "t.csv", "id,c0,c1\nx,a.nii.gz,a.nii.gz\n"), make_data(2))
    assert len(case.images) == 1


def test_an_id_may_be_the_number_zero(tmp_path):
    _, (case,) = find_cohort(write_table(tmp_path, "t.json", '[{"id": 0, "c0": "a.nii.gz"}]'), make_data())
    assert case.id == "0"


@pytest.mark.parametrize("column", ["c0", "label"])
@pytest.mark.parametrize("name", ["../a.nii.gz", "/etc/a.nii.gz"])
def test_a_table_cannot_name_files_outside_its_folder(tmp_path, monkeypatch, column, name):
    row = {"id": "x", "c0": "a.nii.gz", "label": "m.nii.gz", column: name}
    write_table(tmp_path, "t.json", json.dumps([row]))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "t.json", (tmp_path / "t.json").relative_to(tmp_path)):
        assert refuse(path).code == "PATH_OUTSIDE_DATA"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,ct\nx,a.nii.gz\n"),
        ("t.csv", "id,c0\n,a.nii.gz\n"),
        ("t.csv", b"id,c0\nM\xfcller,a.nii.gz\n"),
        ("t.json", "{"),
        ("t.json", '{"training": []}'),
        ("t.json", '["a"]'),
    ],
)
def test_a_table_that_lacks_what_is_needed_is_refused(tmp_path, name, text):
    assert refuse(write_table(tmp_path, name, text)).code == "TABLE_INVALID"


def test_the_missing_column_is_named_with_its_row(tmp_path):
    error = refuse(write_table(tmp_path, "t.csv", "id,c0\nx,a.nii.gz\ny,\n"))
    assert (error.message, error.hint) == ("row 2 lacks c0", "columns: id, c0, [label], [group]")


def test_a_table_without_rows_holds_no_case(tmp_path):
    assert refuse(write_table(tmp_path, "t.csv", "id,c0\n")).code == "NO_CASES"


def test_one_id_in_two_rows_is_refused(tmp_path):
    assert refuse(write_table(tmp_path, "t.csv", "id,c0\nx,a.nii.gz\nx,b.nii.gz\n")).code == "DUPLICATE_ID"


def test_one_file_cannot_stand_for_two_of_three_channels(tmp_path):
    rows = [{"id": "a", "c0": "x.nii", "c1": "y.nii", "c2": "x.nii", "label": "l.nii"}]
    touch(tmp_path, "x.nii", "y.nii", "l.nii")
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert refuse(tmp_path / "list.json", n_channels=3).code == "CHANNEL_AMBIGUOUS"


def test_a_group_pattern_that_misses_an_id_is_refused(tmp_path):
    make_folders(tmp_path)
    assert refuse(tmp_path, ConfigError, group_pattern=r"^visit_(\d+)").code == "GROUP_UNMATCHED"


@pytest.mark.parametrize("pattern", ["no group", "(unclosed"])
def test_a_group_pattern_that_cannot_name_a_patient_is_refused(pattern):
    with pytest.raises(ValueError, match="group_pattern"):
        make_data(group_pattern=pattern)


def test_masks_are_the_visible_images_but_for_maps_of_infer(tmp_path):
    touch(tmp_path, "b.nii.gz", "a_prob_.png", ".c.nii", "d.json", *(f"b{kind}.nii.gz" for kind in MAPS))
    assert [path.name for path in list_masks(tmp_path)] == ["a_prob_.png", "b.nii.gz"]
