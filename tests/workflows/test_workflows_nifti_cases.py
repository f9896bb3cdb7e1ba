"""All NIfTI cases in one folder: `convert` writes the good ones where they were and refuses the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.nifti_cases import BAD, CASES, GOOD, SHAPE
from tests.ramp_checks import off_ramp, read
from tests.tiny import document, medseg

ALONE = "dicom"  # among others, DICOM content makes the folder a mixed one
REFUSED = {case.name: case.code for case in BAD if case.name != ALONE}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nifti") / "out"


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, dict[str, Any]]:
    """What `convert` reports of each case."""
    folder = out.parent / "scans"
    folder.mkdir()
    for name in CASES.keys() - {ALONE}:
        CASES[name].write(folder / f"{name}.nii.gz")
    result = medseg("convert", folder, "-o", out, "--json")
    assert result.exit_code == 3
    return {case["id"]: case for case in document(result)["cases"]}


@pytest.mark.parametrize("name", [case.name for case in GOOD])
def test_written_volume_lies_on_the_ramp(name: str, out: Path, results: dict[str, dict[str, Any]]) -> None:
    assert (results[name]["status"], results[name]["code"]) == ("done", None)
    case = CASES[name]
    array, affine = read(out / f"{name}.nii.gz")
    channels = [array] if array.ndim == 3 else list(np.moveaxis(array, 3, 0))
    assert case.truth is not None and len(channels) == case.channels
    for channel in channels:
        assert channel.shape == (*SHAPE[:2], case.slices)
        assert off_ramp(channel, affine, case.truth.ramp).max() < max(0.6, abs(case.truth.slope) / 2 + 0.05)
    assert np.abs(affine - case.truth.place).max() < 1e-4


def test_bad_files_are_refused_with_their_codes(results: dict[str, dict[str, Any]]) -> None:
    refused = {name: one["code"] for name, one in results.items() if one["status"] == "rejected"}
    assert refused == REFUSED


def test_bad_files_leave_nothing(out: Path, results: dict[str, dict[str, Any]]) -> None:
    written = {f"{case.name}{end}" for case in GOOD for end in (".nii.gz", ".json")}
    assert {path.name for path in out.iterdir()} == written | {"report.json"}
