"""infer: every kind of input, the grid of every mask, and what is left alone."""

import csv
import json
import shutil
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.io import read_labels, read_volume, write_volume
from tests.tiny import IDS, document, hashes, make_case, medseg


@pytest.fixture(scope="module")
def images(tiny_cohort: Path) -> Path:
    return tiny_cohort / "imagesTr"


@pytest.fixture(scope="module")
def masks(tiny_run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks and probabilities of the whole folder; read only."""
    out = tmp_path_factory.mktemp("masks") / "OUT"
    result = infer(images, tiny_run, out, "--save-probabilities", "--json")
    assert result.exit_code == 0, result.stderr
    (out.parent / "stdout.json").write_text(result.stdout)
    return out


def infer(source: Path, run: Path, out: Path, *more: object):
    return medseg("infer", source, "-m", run, "-o", out, "--threads", "1", "--device", "cpu", *more)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_gives_a_mask_a_sidecar_and_probabilities_a_case(masks: Path):
    suffixes = (".nii.gz", ".json", "_prob.nii.gz")
    assert names(masks) == {"report.json", *(name + suffix for name in IDS for suffix in suffixes)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in masks.iterdir()} == {0o600}


def test_stdout_equals_report_json_and_lists_the_outputs(masks: Path):
    report = json.loads((masks / "report.json").read_text())
    assert json.loads((masks.parent / "stdout.json").read_text()) == report
    for case in report["cases"]:
        assert set(case["outputs"]) == {f"{case['id']}{end}" for end in (".nii.gz", ".json", "_prob.nii.gz")}


def test_a_mask_lies_on_the_grid_of_its_scan(masks: Path, images: Path):
    for name in IDS:
        mask, scan = nib.load(masks / f"{name}.nii.gz"), nib.load(images / f"{name}.nii.gz")
        assert mask.shape == scan.shape and np.array_equal(mask.affine, scan.affine)
        for code in ("qform_code", "sform_code", "xyzt_units"):
            assert int(mask.header[code]) == int(scan.header[code])


def test_probabilities_are_stored_as_uint16_and_agree_with_the_mask(masks: Path):
    stored = nib.load(masks / f"{IDS[0]}_prob.nii.gz")
    assert stored.get_data_dtype() == np.uint16 and stored.shape == (20, 18, 10, 3)
    assert stored.dataobj.slope == pytest.approx(1 / 65535)
    values = np.asanyarray(stored.dataobj.get_unscaled())
    assert np.abs(values.astype(int).sum(axis=3) - 65535).max() <= 3
    mask = read_labels(masks / f"{IDS[0]}.nii.gz").array
    chosen = np.take_along_axis(values, mask[..., None].astype(int), axis=3)[..., 0]
    assert (chosen == values.max(axis=3)).all()


def test_sidecar_volumes_are_counted_in_the_mask(masks: Path):
    sidecar = json.loads((masks / f"{IDS[0]}.json").read_text())
    mask = read_labels(masks / f"{IDS[0]}.nii.gz")
    for value, row in sidecar["labels"].items():
        voxels = int((mask.array == int(value)).sum())
        assert row["volume_ml"] == pytest.approx(voxels * 1.5 * 1.5 * 3 / 1000, abs=1e-4)


def test_the_sidecar_of_a_file_tells_of_no_dicom(masks: Path):
    sidecar = json.loads((masks / f"{IDS[0]}.json").read_text())
    assert "scan" not in sidecar and "allow_tilt" not in sidecar["settings"]


def test_held_out_cases_get_the_mask_that_the_run_evaluated(masks: Path, tiny_run: Path):
    held_out = json.loads((tiny_run / "splits.json").read_text())["folds"][0]
    for name in held_out:
        stored = tiny_run / f"predictions/fold_0/{name}.nii.gz"
        assert np.array_equal(read_labels(masks / f"{name}.nii.gz").array, read_labels(stored).array)


def test_the_same_command_again_skips_all_and_touches_nothing(masks: Path, images: Path, tiny_run: Path):
    before = {path.name: path.stat().st_mtime_ns for path in masks.iterdir() if path.name != "report.json"}
    result = infer(images, tiny_run, masks, "--save-probabilities", "--json")
    assert {case["status"] for case in document(result)["cases"]} == {"skipped"}
    after = {path.name: path.stat().st_mtime_ns for path in masks.iterdir() if path.name != "report.json"}
    assert after == before


def test_a_file_is_one_case(images: Path, tiny_run: Path, tmp_path: Path, masks: Path):
    result = infer(images / f"{IDS[3]}.nii.gz", tiny_run / "model", tmp_path / "OUT")
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "OUT") == {f"{IDS[3]}.nii.gz", f"{IDS[3]}.json", "report.json"}
    assert (tmp_path / "OUT" / f"{IDS[3]}.nii.gz").read_bytes() == (masks / f"{IDS[3]}.nii.gz").read_bytes()


def test_a_table_names_its_cases(images: Path, tiny_run: Path, tmp_path: Path):
    shutil.copy(images / f"{IDS[0]}.nii.gz", tmp_path / "scan.nii.gz")
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "ct"], ["first", "scan.nii.gz"]])
    result = infer(tmp_path / "cases.csv", tiny_run, tmp_path / "OUT")
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "OUT") == {"first.nii.gz", "first.json", "report.json"}


def test_a_folder_of_folders_is_one_case_a_patient(images: Path, tiny_run: Path, tmp_path: Path):
    for name in IDS[:2]:
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(images / f"{name}.nii.gz", tmp_path / "in" / name / "ct.nii.gz")
    result = infer(tmp_path / "in", tiny_run, tmp_path / "OUT", "--json")
    assert [case["id"] for case in document(result)["cases"]] == list(IDS[:2])


def test_an_nnunet_channel_number_is_not_part_of_the_id(images: Path, tiny_run: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    shutil.copy(images / f"{IDS[0]}.nii.gz", tmp_path / "in/a_0000.nii.gz")
    infer(tmp_path / "in", tiny_run, tmp_path / "OUT")
    assert names(tmp_path / "OUT") == {"a.nii.gz", "a.json", "report.json"}


def test_another_image_under_the_same_name_is_done_again(images: Path, tiny_run: Path, tmp_path: Path):
    scan = tmp_path / "scan.nii.gz"
    for name, status in ((IDS[0], "done"), (IDS[0], "skipped"), (IDS[1], "done")):
        shutil.copy(images / f"{name}.nii.gz", scan)
        assert document(infer(scan, tiny_run, tmp_path / "OUT", "--json"))["cases"][0]["status"] == status


def test_a_lost_mask_is_done_again(images: Path, tiny_run: Path, tmp_path: Path):
    source = images / f"{IDS[0]}.nii.gz"
    infer(source, tiny_run, tmp_path)
    before = (tmp_path / source.name).read_bytes()
    (tmp_path / source.name).unlink()
    assert document(infer(source, tiny_run, tmp_path, "--json"))["cases"][0]["status"] == "done"
    assert (tmp_path / source.name).read_bytes() == before


def test_a_mask_that_was_replaced_is_done_again(images: Path, tiny_run: Path, tmp_path: Path):
    source = images / f"{IDS[0]}.nii.gz"
    infer(source, tiny_run, tmp_path)
    before = (tmp_path / source.name).read_bytes()
    shutil.copy(source, tmp_path / source.name)
    assert document(infer(source, tiny_run, tmp_path, "--json"))["cases"][0]["status"] == "done"
    assert (tmp_path / source.name).read_bytes() == before


def test_a_scan_that_is_refused_now_leaves_no_old_mask(images: Path, tiny_run: Path, tmp_path: Path):
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "OUT"
    shutil.copy(images / f"{IDS[0]}.nii.gz", scan)
    infer(scan, tiny_run, out, "--save-probabilities")
    scan.write_bytes(scan.read_bytes()[:-100])
    assert infer(scan, tiny_run, out).exit_code == 3
    assert names(out) == {"report.json"}


def test_the_output_folder_may_not_hold_the_scans(images: Path, tiny_run: Path, tmp_path: Path):
    shutil.copy(images / f"{IDS[0]}.nii.gz", tmp_path)
    before = hashes(tmp_path)
    result = infer(tmp_path, tiny_run, tmp_path)
    assert result.exit_code == 2 and "OUT_HOLDS_INPUT" in result.stderr
    assert hashes(tmp_path) == before


def test_pseudonyms_replace_ids_everywhere_and_stay_the_same(
    images: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    source = images / f"{IDS[0]}.nii.gz"
    result = infer(source, tiny_run, tmp_path / "OUT", "--pseudonymize", "--json")
    found = document(result)["cases"][0]["id"]
    assert found.startswith("case-") and len(found) == len("case-") + 12
    assert names(tmp_path / "OUT") == {f"{found}.nii.gz", f"{found}.json", "report.json"}
    assert not [p for p in (tmp_path / "OUT").iterdir() if IDS[0].encode() in p.read_bytes()]
    again = document(infer(source, tiny_run, tmp_path / "OUT", "--pseudonymize", "--json"))["cases"][0]
    assert (again["id"], again["status"]) == (found, "skipped")
    assert stat.S_IMODE((tmp_path / "home/pseudonym.key").stat().st_mode) == 0o600


def test_a_dry_run_writes_nothing(images: Path, tiny_run: Path, tmp_path: Path):
    result = infer(images, tiny_run, tmp_path / "OUT", "--dry-run", "--json")
    told = document(result)["dry_run"]
    assert told["cases"] == 6 and set(told["peak_mb"]) == set(IDS)
    assert "windows (2x2x2) of 16x16x8" in result.stderr and "peak " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_scan_smaller_than_the_patch_is_segmented_whole(tiny_run: Path, tmp_path: Path):
    volume, _ = make_case(3)
    small = volume.geometry.crop((0, 0, 0), (9, 7, 1))
    from medseg.core.volume import Volume

    write_volume(tmp_path / "slab.nii.gz", Volume(volume.array[:, :9, :7, :1], small))
    assert infer(tmp_path / "slab.nii.gz", tiny_run, tmp_path / "OUT").exit_code == 0
    assert read_labels(tmp_path / "OUT/slab.nii.gz").array.shape == (9, 7, 1)


def test_a_missing_input_is_a_usage_error(tiny_run: Path, tmp_path: Path):
    result = infer(tmp_path / "nowhere", tiny_run, tmp_path / "OUT")
    assert result.exit_code == 2 and "INPUT_MISSING" in result.stderr


def test_a_missing_model_is_refused(images: Path, tmp_path: Path):
    result = infer(images, tmp_path, tmp_path / "OUT")
    assert result.exit_code == 2 and "MODEL_MISSING" in result.stderr


def test_an_unknown_device_is_refused(images: Path, tiny_run: Path, tmp_path: Path):
    result = medseg("infer", images, "-m", tiny_run, "-o", tmp_path / "OUT", "--device", "tpu")
    assert result.exit_code == 2 and "tpu" in result.stderr
    assert not (tmp_path / "OUT").exists()


def test_two_channels_are_not_taken_for_one(tiny_run: Path, tmp_path: Path):
    from medseg.core.volume import Volume

    volume, _ = make_case(0)
    write_volume(tmp_path / "two.nii.gz", Volume(np.repeat(volume.array, 2, axis=0), volume.geometry))
    result = infer(tmp_path / "two.nii.gz", tiny_run, tmp_path / "OUT")
    assert result.exit_code == 3 and result.stderr.splitlines()[-2:][0].split()[0].isupper()
    assert names(tmp_path / "OUT") == {"report.json"}


def test_the_image_itself_is_left_alone(images: Path, masks: Path):
    volume, _ = make_case(0)
    assert np.array_equal(read_volume(images / f"{IDS[0]}.nii.gz").array, volume.array)


def test_a_case_that_needs_more_memory_than_allowed_ends_with_exit_4(
    images: Path, tiny_run: Path, tmp_path: Path
):
    result = infer(images / f"{IDS[0]}.nii.gz", tiny_run, tmp_path / "OUT", "--memory-gb", "0.01", "--json")
    case = json.loads(result.stdout)["cases"][0]
    assert result.exit_code == 4 and (case["status"], case["code"]) == ("failed", "INFER_MEMORY")
    assert not (tmp_path / "OUT" / f"{IDS[0]}.nii.gz").exists()


def test_what_fits_is_done_and_tells_its_memory(images: Path, tiny_run: Path, tmp_path: Path, masks: Path):
    result = infer(images / f"{IDS[0]}.nii.gz", tiny_run, tmp_path / "OUT", "--memory-gb", "64", "-v")
    assert result.exit_code == 0 and "peak " in result.stderr
    assert (tmp_path / "OUT" / f"{IDS[0]}.nii.gz").read_bytes() == (masks / f"{IDS[0]}.nii.gz").read_bytes()


def test_a_backend_gives_the_same_mask_and_is_named_beside_it(
    masks: Path, tiny_run: Path, images: Path, tmp_path
):
    scan = images / f"{IDS[0]}.nii.gz"
    assert infer(scan, tiny_run, tmp_path, "--backend", "openvino").exit_code == 0
    tree = json.loads((tmp_path / f"{IDS[0]}.json").read_text())
    assert tree["settings"]["backend"] == "openvino" and "openvino" in tree["versions"]
    mask, other = (read_labels(out / f"{IDS[0]}.nii.gz").array for out in (tmp_path, masks))
    assert (mask == other).mean() > 0.999


def test_what_auto_chose_is_told_and_does_not_decide_what_is_done(
    tiny_run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medseg.inference.backends.choose.SETTLED_S", 0.0)
    scan = images / f"{IDS[0]}.nii.gz"
    first = infer(scan, tiny_run, tmp_path, "--backend", "auto", "--json")
    tree = json.loads((tmp_path / f"{IDS[0]}.json").read_text())
    assert tree["settings"]["backend"] == "auto" and f"backend {tree['backend']} x" in first.stderr
    again = infer(scan, tiny_run, tmp_path, "--backend", "auto", "--json")
    assert [case["status"] for case in document(again)["cases"]] == ["skipped"]
    measured = document(first)["backend"]["candidates"]
    assert {one["backend"] for one in measured} == {"torch", "openvino", "onnxruntime"}
    assert all(one["seconds"] > 0 for one in measured)


def test_auto_converts_no_network_for_a_moment_of_work(tiny_run: Path, images: Path, tmp_path: Path):
    scan = images / f"{IDS[0]}.nii.gz"
    found = document(infer(scan, tiny_run, tmp_path, "--backend", "auto", "--json"))
    assert [one["backend"] for one in found["backend"]["candidates"]] == ["torch"]
