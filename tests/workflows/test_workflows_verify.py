"""verify: whole or not, file by file."""

import shutil
from pathlib import Path

import pytest

from medseg.core.files import write_json
from tests.tiny import document, medseg


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run / "model", tmp_path / "RUN" / "model"))


@pytest.fixture
def masks(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run / "predictions" / "fold_0", tmp_path / "masks"))


def verify(path: Path) -> tuple[int, dict[str, str | None]]:
    """Return the exit code, and the code of each file."""
    result = medseg("verify", path, "--json")
    return result.exit_code, {case["id"]: case["code"] for case in document(result)["cases"]}


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_model_and_its_run_are_whole(folder: Path):
    code, files = verify(folder)
    assert code == 0 and verify(folder.parent) == (code, files)
    assert {"model.json", "plan.json", "weights_fold_0.safetensors"} <= set(files)


def test_a_changed_a_lost_and_a_strange_file_are_named(folder: Path):
    spoil(folder / "weights_fold_0.safetensors")
    (folder / "plan.json").unlink()
    (folder / "weights_fold_9.safetensors").write_bytes(b"new")
    code, files = verify(folder)
    assert code == 3 and {name: files[name] for name in files if files[name]} == {
        "weights_fold_0.safetensors": "CHECKSUM_DIFFERS",
        "plan.json": "FILE_MISSING",
        "weights_fold_9.safetensors": "CHECKSUM_MISSING",
    }


def test_a_name_that_leads_out_of_the_folder_is_not_followed(folder: Path):
    (folder.parent / "outside").write_text("x")
    with (folder / "SHA256SUMS").open("a") as stream:
        stream.write(f"{'0' * 64}  ../outside\n")
    assert verify(folder)[1]["../outside"] == "FILE_MISSING"


def test_masks_are_held_against_their_sidecars(masks: Path):
    code, files = verify(masks)
    assert code == 0 and set(files) == {path.name for path in masks.iterdir() if path.suffix != ".json"}


def test_a_mask_is_verified_alone_and_by_its_sidecar(masks: Path):
    one, other = sorted(masks.glob("*.nii.gz"))[:2]
    spoil(other)
    sidecar = one.with_name(one.name.replace(".nii.gz", ".json"))
    record = one.name.replace(".nii.gz", "_trust.safetensors")
    assert verify(one) == (0, {one.name: None})
    assert verify(sidecar) == (0, {one.name: None, record: None})
    assert verify(other) == (3, {other.name: "CHECKSUM_DIFFERS"})


def test_a_mask_without_a_sidecar_is_vouched_for_by_nothing(masks: Path):
    mask = sorted(masks.glob("*.nii.gz"))[0]
    mask.with_name(mask.name.replace(".nii.gz", ".json")).unlink()
    assert verify(mask) == (3, {mask.name: "CHECKSUM_MISSING"})
    assert verify(masks)[1][mask.name] == "CHECKSUM_MISSING"


def test_a_sidecar_that_is_no_json_is_named(masks: Path):
    sidecar = sorted(masks.glob("*.json"))[0]
    sidecar.write_text("{")
    code, files = verify(masks)
    assert code == 3 and files[sidecar.name] == "JSON_INVALID"


def test_other_json_is_no_sidecar(masks: Path):
    for number, tree in enumerate(({"outputs": 1}, [1])):
        write_json(masks / f"other{number}.json", tree)
    assert verify(masks)[0] == 0


def test_where_nothing_has_a_checksum_that_is_said(tmp_path: Path):
    for path, code in ((tmp_path, "CHECKSUM_MISSING"), (tmp_path / "none", "FILE_MISSING")):
        result = medseg("verify", path)
        assert result.exit_code == 3 and code in result.stderr


def test_each_file_is_a_line(folder: Path):
    spoil(folder / "plan.json")
    result = medseg("verify", folder)
    assert "bad plan.json" in result.stdout and "ok  model.json" in result.stdout
    assert "CHECKSUM_DIFFERS plan.json" in result.stderr
    assert medseg("verify", folder, "-q").stdout == ""
