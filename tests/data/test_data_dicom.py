"""DICOM folders as cases: which scan is which channel, which object its label, and what they are called."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from medseg.core.errors import ConfigError, DataError
from medseg.data.cases import Case, peek_key, pseudonymize, read_key
from medseg.data.checks import check_case, hash_files
from medseg.data.inputs import find_inputs
from medseg.data.layouts import find_cohort
from medseg.data.loading import load_case
from medseg.data.preprocess import preprocess_image
from medseg.data.settings import Channel, Data, SeriesRule
from medseg.data.store import StoredCase, write_case
from medseg.data.studies import Wanted, holds_dicom
from medseg.io import list_files, read_geometry, read_labels, read_volume, write_labels, write_probabilities
from tests.builders import make_data, make_plan
from tests.dicom_cohort import write_scan, write_structures, write_study
from tests.dicom_edits import put
from tests.dicom_files import AXIAL, CORONAL, SAGITTAL, make_uid, write_series
from tests.dicom_objects import write_localizer, write_report, write_screenshot
from tests.tiny import make_case


def key() -> bytes:
    return b"this site"


def rule(**values):
    return make_data(channels={"c0": Channel(series=SeriesRule(**values))})


def inputs(*paths, settings=None, **wanted):
    return find_inputs(paths, settings or make_data(), key, Wanted(**wanted))


def cohort(root, **changes):
    return find_cohort(root, make_data(**changes), key)[1]


def code_of(case):
    return case.error and case.error.code


def refuse(call, kind=DataError):
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


# ---- what a folder is --------------------------------------------------------------------------------------


def test_a_study_is_a_case_of_its_patient(tmp_path):
    write_series(tmp_path / "a/ct", study=1, patient="P-1")
    write_series(tmp_path / "a/later", study=2, patient="P-1")
    write_series(tmp_path / "b", study=3, patient="P-2")
    cases = inputs(tmp_path)
    assert len({case.id for case in cases}) == 3 and len({case.patient for case in cases}) == 2


def test_ids_are_keyed_pseudonyms_and_never_what_the_files_say(tmp_path):
    write_series(tmp_path / "Mueller", patient="P-4711")
    (case,) = inputs(tmp_path)
    assert re.fullmatch(r"dcm-[0-9a-f]{12}", case.id) and re.fullmatch(r"pat-[0-9a-f]{12}", case.patient)
    (other,) = find_inputs([tmp_path], make_data(), lambda: b"another site")
    assert (other.id, other.patient) != (case.id, case.patient)


def test_patients_without_an_id_are_not_taken_for_one(tmp_path):
    nobody = put(PatientID="", PatientName="")
    write_series(tmp_path / "a", study=1, edit=nobody)
    write_series(tmp_path / "b", study=2, edit=nobody)
    assert len({case.patient for case in inputs(tmp_path)}) == 2


def test_a_multi_frame_or_single_file_is_an_input(tmp_path):
    write_series(tmp_path, replace(AXIAL, at=(0.0,)))
    (file,) = tmp_path.iterdir()
    (case,) = inputs(file.rename(tmp_path / "no_suffix"))
    assert read_geometry(case.images[0]).shape[2] == 1


def test_old_files_without_the_mark_are_seen(tmp_path):
    write_series(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert holds_dicom(tmp_path) and len(inputs(tmp_path)) == 1


@pytest.mark.parametrize("place", ["a.nii.gz", "deep/below/a.png"])
def test_dicom_among_other_images_is_refused(tmp_path, place):
    write_series(tmp_path / "ct")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    assert refuse(lambda: inputs(tmp_path)) == "INPUT_MIXED"
    assert refuse(lambda: cohort(tmp_path, layout="dicom")) == "INPUT_MIXED"


def test_patient_folders_with_dicom_beside_their_images_can_be_forced(tmp_path):
    write_series(tmp_path / "p1/source")
    (tmp_path / "p1/image.nii.gz").touch()
    assert refuse(lambda: cohort(tmp_path)) == "INPUT_MIXED"
    assert [case.id for case in cohort(tmp_path, layout="patients")] == ["p1"]


def test_text_and_reports_are_no_cases(tmp_path):
    write_series(tmp_path / "ct")
    write_report(tmp_path / "ct")
    (tmp_path / "readme.txt").write_text("n/a")
    assert len(inputs(tmp_path)) == 1


def test_nothing_but_a_report_is_refused_as_no_image(tmp_path):
    write_report(tmp_path)
    assert refuse(lambda: inputs(tmp_path)) == "DICOM_NOT_IMAGE"


def test_damaged_files_apart_from_any_scan_are_a_case_that_says_so(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0")
    assert sorted(code_of(case) or "" for case in inputs(tmp_path)) == ["", "DICOM_DAMAGED"]


def test_damaged_files_of_two_inputs_have_two_names(tmp_path):
    for n, name in enumerate("ab"):
        write_series(tmp_path / name / "ct", study=n)
        (tmp_path / name / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0")
    cases = inputs(tmp_path / "a", tmp_path / "b")
    assert len({case.id for case in cases}) == 4


@pytest.mark.parametrize("wanted", [{}, {"series": "1"}], ids=["rule", "asked for"])
def test_a_refused_scan_keeps_the_name_that_it_has_as_a_good_one(tmp_path, wanted):
    write_series(tmp_path)
    (good,) = inputs(tmp_path, **wanted)
    (tmp_path / "slice_002.dcm").unlink()
    (bad,) = inputs(tmp_path, **wanted)
    assert code_of(bad) == "DICOM_GAP" and (bad.id, bad.patient) == (good.id, good.patient)


@pytest.mark.parametrize("wanted", [{}, {"series": "1"}], ids=["rule", "asked for"])
def test_a_refused_volume_keeps_its_name_too(tmp_path, wanted):
    write_echoes(tmp_path)
    (good,) = inputs(tmp_path, volume=2, **wanted)
    (tmp_path / "007").unlink()
    (bad,) = inputs(tmp_path, volume=2, **wanted)
    assert code_of(bad) == "DICOM_GAP" and bad.id == good.id


def test_a_pipe_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refuse(lambda: inputs(tmp_path / "pipe"), ConfigError) == "INPUT_MISSING"


def test_a_refused_study_is_a_case_and_the_others_go_on(tmp_path):
    write_series(tmp_path / "a", study=1)
    write_series(tmp_path / "b", study=2)
    (tmp_path / "b/slice_002.dcm").unlink()
    cases = inputs(tmp_path)
    assert sorted(code_of(case) or "" for case in cases) == ["", "DICOM_GAP"]
    assert len({case.id for case in cases}) == 2


def test_without_a_key_dicom_is_refused_before_it_gets_a_name(tmp_path):
    write_series(tmp_path)
    assert refuse(lambda: find_inputs([tmp_path], make_data()), ConfigError) == "KEY_MISSING"


def test_nifti_work_imports_no_pydicom(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    code = (
        "import sys; from pathlib import Path; from medseg.data.inputs import find_inputs; "
        "from medseg.data.layouts import find_cohort; from medseg.data.settings import Channel, Data; "
        "data = Data(channels={'a': Channel()}, labels={1: 'x'}); "
        f"assert find_inputs([Path({str(tmp_path)!r})], data); "
        "assert not {'pydicom', 'highdicom', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- which scan is the channel -----------------------------------------------------------------------------


def test_two_series_without_a_rule_are_ambiguous_and_listed_by_number_and_grid(tmp_path):
    write_series(tmp_path / "a", series=1, edit=put(SeriesDescription="secret"))
    write_series(tmp_path / "b", SAGITTAL, series=2, kind="MR")
    (case,) = inputs(tmp_path)
    assert code_of(case) == "SERIES_AMBIGUOUS" and case.images == ()
    for words in (r"\[1\] CT,", r"; \[2\] MR,", "7 x 6 x 5 voxels of 0.75 x 1.25 x 3 mm"):
        assert re.search(words, case.error.message)
    assert "secret" not in case.error.message and "--series" in case.error.hint


@pytest.mark.parametrize(
    ("values", "modality"),
    [
        ({"modality": "MR"}, "MR"),
        ({"modality": "ct"}, "CT"),
        ({"orientation": "axial"}, "CT"),
        ({"orientation": "sagittal"}, "MR"),
        ({"orientation": "coronal"}, "PT"),
        ({"min_slices": 6}, "MR"),
        ({"max_slices": 4}, "PT"),
        ({"image_type": ["derived"]}, "MR"),
        ({"not_image_type": ["PRIMARY"]}, "PT"),
    ],
)
def test_a_rule_picks_by_what_headers_say(tmp_path, values, modality):
    longer = replace(SAGITTAL, at=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    shorter = replace(CORONAL, at=(0.0, 1.0, 2.0))
    write_series(tmp_path / "a", AXIAL, series=1)
    write_series(tmp_path / "b", longer, series=2, kind="MR", edit=put(ImageType=["DERIVED", "PRIMARY"]))
    write_series(tmp_path / "c", shorter, series=3, kind="PT", edit=put(ImageType=["ORIGINAL", "SECONDARY"]))
    (case,) = inputs(tmp_path, settings=rule(**values))
    assert code_of(case) is None and case.images[0].modality == modality


def test_a_rule_that_nothing_fits_misses_its_channel(tmp_path):
    write_series(tmp_path)
    (case,) = inputs(tmp_path, settings=rule(modality="PT"))
    assert code_of(case) == "CHANNEL_MISSING" and "channel c0" in case.error.message


def test_a_refused_series_that_fits_the_rule_competes(tmp_path):
    # The one with the gap may be the one that was meant.
    write_series(tmp_path / "a", series=1)
    write_series(tmp_path / "b", series=2)
    (tmp_path / "b/slice_002.dcm").unlink()
    (case,) = inputs(tmp_path, settings=rule(modality="CT"))
    assert code_of(case) == "SERIES_AMBIGUOUS" and "refused (DICOM_GAP)" in case.error.message


def test_localizers_and_screenshots_do_not_compete(tmp_path):
    write_series(tmp_path / "a")
    write_localizer(7, planes=3)(tmp_path / "b")
    write_screenshot(tmp_path / "c")
    for settings in (make_data(), rule(modality="CT")):
        (case,) = inputs(tmp_path, settings=settings)
        assert code_of(case) is None


def test_a_study_of_a_screenshot_says_what_it_is(tmp_path):
    write_screenshot(tmp_path)
    assert [code_of(case) for case in inputs(tmp_path)] == ["DICOM_COLOUR"]


def write_echoes(folder):
    for echo in (0, 1):
        time = put(EchoTime=str(10 + 20 * echo))
        write_series(folder, kind="MR", first=5 * echo, edit=time, name="{folder}/{k:03d}")


def test_a_volume_of_a_series_is_picked_by_number_or_by_what_tells_it_apart(tmp_path):
    write_echoes(tmp_path)
    assert [code_of(case) for case in inputs(tmp_path)] == ["SERIES_AMBIGUOUS"]
    (by_number,) = inputs(tmp_path, volume=2)
    (by_rule,) = inputs(tmp_path, settings=rule(volume="echo time 30*"))
    assert by_number.id == by_rule.id and by_number.id.endswith("-v2")


def test_the_user_goes_before_the_rule_and_names_one_study(tmp_path):
    write_series(tmp_path / "a", study=1)
    write_series(tmp_path / "b", study=2, kind="MR")
    for series in ("2", str(make_uid(2, 1))):
        (case,) = inputs(tmp_path, settings=rule(modality="CT"), series=series)
        assert case.images[0].modality == "MR"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [({"series": "9"}, "SERIES_UNKNOWN"), ({"series": "1", "volume": 3}, "VOLUME_UNKNOWN")],
)
def test_a_series_or_volume_that_is_not_there_is_a_usage_error(tmp_path, wanted, code):
    write_series(tmp_path)
    assert refuse(lambda: inputs(tmp_path, **wanted), ConfigError) == code


def test_a_series_of_a_folder_without_dicom_is_a_usage_error(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    assert refuse(lambda: inputs(tmp_path, series="1"), ConfigError) == "SERIES_UNKNOWN"


def test_one_series_cannot_be_several_channels(tmp_path):
    write_series(tmp_path)
    (case,) = inputs(tmp_path, settings=make_data(2))
    assert code_of(case) == "CHANNEL_AMBIGUOUS"
    assert (
        refuse(lambda: inputs(tmp_path, settings=make_data(2), series="1"), ConfigError) == "SERIES_CHANNELS"
    )


def test_channels_are_picked_by_their_own_rules(tmp_path):
    for series, kind in ((1, "MR"), (2, "CT")):
        write_series(tmp_path / kind, series=series, kind=kind)
    channels = {name: Channel(series=SeriesRule(modality=name)) for name in ("CT", "MR")}
    (case,) = inputs(tmp_path, settings=make_data(channels=channels))
    assert [scan.modality for scan in case.images] == ["CT", "MR"]


def test_repairs_are_made_only_where_they_are_allowed(tmp_path):
    write_series(tmp_path, replace(AXIAL, step_mm=(0.0, 0.6, 3.0)))
    assert [code_of(case) for case in inputs(tmp_path)] == ["DICOM_TILT"]
    (case,) = inputs(tmp_path, allow_tilt=True)
    assert [code for code, _ in case.warnings] == ["DICOM_TILT_REPAIRED"]


def test_a_rule_converts_pet_to_suv_and_says_so(tmp_path):
    write_series(tmp_path, kind="PT", edit=put(Units="GML"))
    (case,) = inputs(tmp_path, settings=rule(modality="PT", suv=True))
    assert [code for code, _ in case.warnings] == ["DICOM_SUV_ALREADY"]


def test_suv_that_cannot_be_computed_refuse_the_case(tmp_path):
    write_series(tmp_path, kind="PT", edit=put(Units="BQML"))
    assert [code_of(case) for case in inputs(tmp_path, settings=rule(suv=True))] == ["DICOM_SUV"]


# ---- labels ------------------------------------------------------------------------------------------------


ROIS = {"organ*": 1, "lesion*": 2}


def test_structures_are_the_label_of_the_series_they_refer_to(tmp_path):
    image, label = write_study(tmp_path, 0)
    (case,) = cohort(tmp_path, rois=ROIS)
    loaded = load_case(case, make_data(rois=ROIS))
    assert np.array_equal(loaded.classes.array[::-1, ::-1], label.array)
    assert np.array_equal(loaded.image.array[:, ::-1, ::-1], image.array)


def test_without_a_mapping_structures_are_called_as_the_labels(tmp_path):
    write_study(tmp_path, 0)
    data = make_data(labels={1: "Organ_Axial", 2: "lesion_axial"})
    ((_, cases), other) = find_cohort(tmp_path, data, key), cohort(tmp_path)
    assert check_case(cases[0], data).is_usable
    assert check_case(other[0], make_data()).code == "LABEL_ROI"


def test_a_segmentation_is_a_label_too(tmp_path):
    from medseg.io.dicom.labels.seg import write_seg

    image, label = make_case(0)
    images = write_scan(tmp_path / "ct", image)
    (case,) = inputs(images)
    stored = replace(label, array=label.array[::-1, ::-1], geometry=case.images[0].geometry)
    write_seg(tmp_path / "seg.dcm", stored, case.images[0], {1: "organ", 2: "lesion"})
    (labelled,) = cohort(tmp_path)
    assert labelled.label.kind == "SEG" and np.array_equal(read_labels(labelled.label).array, stored.array)


def test_of_several_series_the_only_labelled_one_is_the_case(tmp_path):
    write_study(tmp_path / "a", 0)
    write_scan(tmp_path / "b", make_case(1)[0], series=2, patient="P-0")
    (case,) = cohort(tmp_path, rois=ROIS)
    assert code_of(case) is None and case.images[0].first.series == make_uid(1, 1)


def test_labelled_series_that_fit_a_rule_are_a_case_each(tmp_path):
    for series in (1, 2):
        images = write_scan(tmp_path / f"{series}", make_case(series)[0], series=series)
        write_structures(tmp_path / f"{series}.dcm", make_case(series)[1], images, series=10 + series)
    settings = rule(modality="CT")
    _, cases = find_cohort(tmp_path, settings, key)
    assert len(cases) == 2 and len({case.patient for case in cases}) == 1
    assert [code_of(case) for case in cohort(tmp_path)] == ["SERIES_AMBIGUOUS"]  # without a rule: a mixture


def test_a_series_without_a_label_is_listed_without_one(tmp_path):
    write_series(tmp_path)
    (case,) = cohort(tmp_path)
    assert case.label is None and check_case(case, make_data()).code == "LABEL_MISSING"


def test_two_structure_sets_of_one_series_are_ambiguous(tmp_path):
    _, label = write_study(tmp_path, 0)
    write_structures(tmp_path / "again.dcm", label, tmp_path / "CT/image", series=30)
    assert [code_of(case) for case in cohort(tmp_path)] == ["LABEL_AMBIGUOUS"]


def test_a_copy_of_a_structure_set_counts_once(tmp_path):
    write_study(tmp_path, 0)
    shutil.copy(tmp_path / "CT/mask/RS.dcm", tmp_path / "copy.dcm")
    (case,) = cohort(tmp_path)
    assert case.label is not None


def test_structures_of_another_patient_are_refused(tmp_path):
    write_study(tmp_path, 0)
    path = tmp_path / "CT/mask/RS.dcm"
    dataset = dcmread(path)
    dataset.PatientID = "P-99"
    dataset.save_as(path)
    assert [code_of(case) for case in cohort(tmp_path)] == ["LABEL_REFERENCE"]


def test_structures_that_name_no_series_belong_to_the_only_one_in_their_space(tmp_path):
    write_study(tmp_path, 0)
    path = tmp_path / "CT/mask/RS.dcm"
    dataset = dcmread(path)
    del dataset.ReferencedFrameOfReferenceSequence
    dataset.save_as(path)
    assert cohort(tmp_path)[0].label is not None
    write_scan(tmp_path / "more", make_case(1)[0], series=2, kind="MR", patient="P-0")
    _, (case,) = find_cohort(tmp_path, rule(modality="CT"), key)
    assert case.label is None


# ---- tables ------------------------------------------------------------------------------------------------


def write_table(root, *rows):
    (root / "t.csv").write_text("\n".join(["id,c0,label", *rows]) + "\n")
    return root / "t.csv"


def test_a_table_may_name_a_folder_of_dicom_and_its_structures(tmp_path):
    write_study(tmp_path, 0)
    table = write_table(tmp_path, "a,CT/image,CT/mask/RS.dcm", "b,CT/image,CT/mask")
    for case in cohort(table, rois=ROIS):
        assert case.id in {"a", "b"} and check_case(case, make_data(rois=ROIS)).is_usable


def test_a_table_may_pair_dicom_with_a_nifti_mask(tmp_path):
    image, label = make_case(0)
    write_scan(tmp_path / "ct", image)
    (case,) = inputs(tmp_path)
    stored = replace(label, array=label.array[::-1, ::-1], geometry=read_geometry(case.images[0]))
    write_labels(tmp_path / "m.nii.gz", stored, like=case.images[0])
    (case,) = cohort(write_table(tmp_path, "a,ct,m.nii.gz"))
    assert check_case(case, make_data()).is_usable


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("a,CT,CT/mask", ""),
        ("a,.,CT/mask", "SERIES_AMBIGUOUS"),
        ("a,CT/image,CT/image", "LABEL_MISSING"),
        ("a,CT/image,.", "LABEL_AMBIGUOUS"),
        ("a,m.nii.gz,CT/mask", "LABEL_REFERENCE"),
    ],
)
def test_a_row_that_is_not_clear_is_refused_alone(tmp_path, row, code):
    write_study(tmp_path, 0, kinds=("CT", "MR"))
    (tmp_path / "other").mkdir()
    table = write_table(tmp_path, row, "z,CT/image,CT/mask")
    assert {case.id: code_of(case) or "" for case in cohort(table)} == {"a": code, "z": ""}


def test_channels_of_two_patients_are_no_case(tmp_path):
    for n, name in enumerate(("CT", "MR")):
        write_series(tmp_path / name, kind=name, study=n, patient=f"P-{n}")
    (tmp_path / "t.csv").write_text("id,CT,MR\na,CT,MR\n")
    channels = {name: Channel() for name in ("CT", "MR")}
    (case,) = inputs(tmp_path / "t.csv", settings=make_data(channels=channels))
    assert code_of(case) == "DICOM_MIXED_PATIENTS" and case.images == ()


def test_rows_of_one_patient_stay_together_where_no_group_is_given(tmp_path):
    for n, patient in enumerate(("P-1", "P-1", "P-2")):
        write_series(tmp_path / str(n), study=n + 1, patient=patient)
    first, second, other = inputs(write_table(tmp_path, "a,0,", "b,1,", "c,2,"))
    assert first.patient == second.patient != other.patient
    (found,) = inputs(tmp_path / "0")
    assert first.patient == found.patient


def test_the_group_of_a_row_goes_before_the_patient_of_its_files(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "t.csv").write_text("id,c0,group\na,ct,G7\n")
    assert [case.patient for case in inputs(tmp_path / "t.csv")] == ["G7"]


def test_channels_of_a_row_are_picked_by_their_rules_in_one_folder(tmp_path):
    write_study(tmp_path, 0, kinds=("CT", "MR"))
    (tmp_path / "t.csv").write_text("id,CT,MR\na,.,.\n")
    channels = {name: Channel(series=SeriesRule(modality=name)) for name in ("CT", "MR")}
    (case,) = inputs(tmp_path / "t.csv", settings=make_data(channels=channels))
    assert [scan.modality for scan in case.images] == ["CT", "MR"]


# ---- a case in use -----------------------------------------------------------------------------------------


def test_a_case_travels_to_a_worker_process(tmp_path):
    write_study(tmp_path, 0)
    (case,) = cohort(tmp_path, rois=ROIS)
    assert check_case(pickle.loads(pickle.dumps(case)), make_data(rois=ROIS)).is_usable  # noqa: S301


def test_the_hash_of_a_scan_holds_its_files_and_what_is_made_of_them(tmp_path):
    write_echoes(tmp_path)
    hashes = {hash_files(inputs(tmp_path, volume=volume)[0])[0] for volume in (1, 2)}
    (case,) = inputs(tmp_path, volume=1)
    hashes |= {hash_files(replace(case, images=(replace(case.images[0], suv_factor=2.0),)))[0]}
    assert len(hashes) == 3
    (tmp_path / "000").write_bytes((tmp_path / "000").read_bytes()[:-2] + b"\7\7")
    assert hash_files(inputs(tmp_path, volume=1)[0])[0] not in hashes


@pytest.mark.parametrize("old", ["slope", "pixels"])
def test_the_hash_of_a_scan_holds_what_its_headers_said(tmp_path, old):
    write_series(tmp_path)
    (case,) = inputs(tmp_path)
    (scan,) = case.images
    frame = scan.frames[1]
    if old == "slope":
        other = replace(frame, slope=2.0)
    else:
        pixels = replace(frame.instance.pixels, is_signed=not frame.instance.pixels.is_signed)
        other = replace(frame, instance=replace(frame.instance, pixels=pixels))
    before = replace(scan, frames=(scan.frames[0], other, *scan.frames[2:]))
    assert hash_files(replace(case, images=(before,))) != hash_files(case)


def test_a_scan_lists_its_files_and_its_label_its_own(tmp_path):
    write_study(tmp_path, 0)
    (case,) = cohort(tmp_path, rois=ROIS)
    assert len(list_files(case.images[0])) == 10 and list_files(case.label) == (tmp_path / "CT/mask/RS.dcm",)


def test_what_is_odd_about_a_scan_is_a_warning_of_its_check(tmp_path):
    image, label = make_case(0)
    write_scan(tmp_path / "ct", image, edit=put(ImagesInAcquisition=99))
    write_structures(tmp_path / "rs.dcm", label, tmp_path / "ct")
    (case,) = cohort(tmp_path, rois=ROIS)
    assert [code for code, _ in check_case(case, make_data(rois=ROIS)).warnings] == ["DICOM_FEWER_IMAGES"]


def test_what_only_the_pixels_tell_is_a_warning_of_its_check(tmp_path):
    write_study(tmp_path, 0)
    for path in sorted((tmp_path / "CT/image").iterdir()):
        dataset = dcmread(path)
        dataset.BitsStored, dataset.HighBit = 12, 11
        words = np.frombuffer(dataset.PixelData, np.uint16) & 0x0FFF
        dataset.PixelData = (words ^ 0x4000).tobytes()
        dataset.save_as(path)
    (case,) = cohort(tmp_path, rois=ROIS)
    record = check_case(case, make_data(rois=ROIS))
    assert record.is_usable and [code for code, _ in record.warnings] == ["DICOM_HIGH_BITS"]


def test_masks_and_probabilities_must_lie_on_the_grid_of_their_scan(tmp_path):
    write_series(tmp_path / "ct")
    scan = inputs(tmp_path / "ct")[0].images[0]
    _, label = make_case(0)
    assert refuse(lambda: write_labels(tmp_path / "m.nii.gz", label, like=scan)) == "GRID_DIFFERS"
    write_probabilities(tmp_path / "p.nii.gz", np.ones((*scan.geometry.shape, 1)), like=scan)
    assert read_geometry(tmp_path / "p.nii.gz").differs_from(scan.geometry) == ""


def test_a_stored_case_has_a_plain_reference_on_the_grid_of_its_scan(tmp_path):
    write_study(tmp_path / "in", 0)
    (case,) = cohort(tmp_path / "in", rois=ROIS)
    loaded = load_case(case, make_data(rois=ROIS))
    array, placement = preprocess_image(loaded.image, make_plan())
    write_case(
        tmp_path / "s",
        "k",
        (array, np.zeros(array.shape[1:], np.uint8)),
        placement,
        loaded.classes,
        case.images[0],
    )
    reference = StoredCase(tmp_path / "s").reference
    assert reference.name == "reference.nii.gz"
    assert read_geometry(reference).differs_from(read_volume(case.images[0]).geometry) == ""


# ---- the key -----------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path):
    made = read_key(tmp_path / "home/key")
    assert len(made) == 32 and read_key(tmp_path / "home/key") == made
    assert (tmp_path / "home/key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["key"]


def test_a_key_that_another_process_made_meanwhile_is_kept(tmp_path, monkeypatch):
    first = read_key(tmp_path / "key")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert read_key(tmp_path / "key") == first


def test_a_look_at_the_key_makes_none(tmp_path):
    assert len(peek_key(tmp_path / "key")) == 32 and not (tmp_path / "key").exists()
    assert peek_key(tmp_path / "key") != peek_key(tmp_path / "key")
    made = read_key(tmp_path / "key")
    assert peek_key(tmp_path / "key") == made


def test_pseudonyms_are_not_made_of_pseudonyms(tmp_path):
    write_series(tmp_path / "in")
    (case,) = find_inputs([tmp_path / "in"], make_data(), partial(read_key, tmp_path / "key"))
    assert pseudonymize([case], tmp_path / "key") == [case]
    assert pseudonymize([Case("a", ())], tmp_path / "key")[0].id != "a"


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"rois": {"GTV": 3}},
        {"codes": {3: "SCT:1:x"}},
        {"codes": {1: "liver"}},
        {"code_categories": {1: "SCT:1"}},
        {"channels": {"a": {"series": {"plane": "axial"}}}},
    ],
)
def test_settings_of_dicom_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"rois|codes|code_categories|plane"):
        make_data(**changes)


def test_rois_may_map_to_what_the_label_map_maps_on():
    assert Data(channels={"a": Channel()}, labels={1: "x"}, label_map={7: 1}, rois={"GTV*": 7}).rois == {
        "GTV*": 7
    }
