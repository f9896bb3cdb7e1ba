"""What a finished run leaves: names, modes and contents, as scripts rely on them."""

import json
import re
import stat
from pathlib import Path

import pytest

from medseg.core.files import sha256_of_file
from tests.tiny import IDS

TIMESTAMP = re.compile(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d|\b1[6-9]\d{8}\b")
LABEL_KEYS = {"name", "dice", "iou", "hd95_mm", "nsd", "volume_error_ml", "n", "n_both_empty"} | {
    "n_missed",
    "n_spurious",
}

SUFFIXES = (".nii.gz", ".json", "_trust.safetensors")


@pytest.fixture(scope="module")
def held_out(tiny_run: Path) -> list[str]:
    return json.loads((tiny_run / "splits.json").read_text())["folds"][0]


PLOTS = ("confusion", "dice", "dice_by_size", "nsd", "training", "volumes")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_tree_is_the_documented_one(tiny_run: Path, held_out: list[str]):
    expected = {
        *("config.yaml", "plan.json", "splits.json", "report.json", "tracking.json", "review.html"),
        *("check/cases.csv", "check/report.json"),
        *(f"check/records/{name}.json" for name in IDS),
        *(
            f"store/{name}/{file}"
            for name in IDS
            for file in ("image.b2nd", "label.b2nd", "reference.nii.gz", "case.json")
        ),
        *("fold_0/checkpoint.pt", "fold_0/history.csv", "fold_0/engine.json"),
        *(f"predictions/fold_0/{name}{suffix}" for name in held_out for suffix in SUFFIXES),
        *("evaluation/cases.csv", "evaluation/metrics.json"),
        *(f"evaluation/overlays/{rank}.png" for rank in ("best", "median", "worst")),
        *(f"evaluation/plots/{name}.{kind}" for name in PLOTS for kind in ("png", "svg")),
        *(f"model/{name}" for name in ("model.json", "config.yaml", "plan.json", "MODEL_CARD.md")),
        *("model/weights_fold_0.safetensors", "model/SHA256SUMS"),
    }
    found = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert found == expected


def test_files_and_folders_are_the_owners_alone(tiny_run: Path):
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (tiny_run, *tiny_run.rglob("*"))}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_stdout_is_one_document_and_equals_report_json(tiny_run: Path):
    assert read(tiny_run.parent / "stdout.json") == read(tiny_run / "report.json")


def test_report_has_the_contracts_shape(tiny_run: Path):
    report = read(tiny_run / "report.json")
    assert {"schema", "command", "version", "exit_code", "cases", "summary", "mlflow", "metrics"} <= set(
        report
    )
    assert (report["schema"], report["command"], report["exit_code"]) == (1, "run", 0)
    assert [case["id"] for case in report["cases"]] == sorted(IDS)
    for case in report["cases"]:
        keys = {"id", "status", "code", "message", "hint", "warnings", "outputs", "seconds"}
        assert set(case) == keys and case["status"] == "done"
    assert report["summary"]["done"] == 6
    assert {"skipped", "rejected", "failed", "seconds", "cpu_seconds", "peak_rss_mb"} <= set(
        report["summary"]
    )


def test_metrics_are_the_same_in_report_and_evaluation(tiny_run: Path):
    metrics = read(tiny_run / "evaluation/metrics.json")
    assert read(tiny_run / "report.json")["metrics"] == metrics
    assert set(metrics["labels"]) == {"1", "2"} and "dice" in metrics["mean"]
    for row in metrics["labels"].values():
        assert set(row) >= LABEL_KEYS and row["n"] == 3


def test_no_json_holds_nan_or_infinity(tiny_run: Path):
    found: list[str] = []
    for path in tiny_run.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=found.append)
    assert found == []


def test_the_model_folder_names_no_case(tiny_run: Path):
    for path in (tiny_run / "model").iterdir():
        content = path.read_bytes()
        assert not [name for name in IDS if name.encode() in content], path.name


def test_checksums_list_every_other_file_of_the_model(tiny_run: Path):
    lines = (tiny_run / "model/SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [path for path in (tiny_run / "model").iterdir() if path.name != "SHA256SUMS"]
    assert listed == {path.name: sha256_of_file(path) for path in files}


def test_sidecars_have_the_contracts_keys(tiny_run: Path, held_out: list[str]):
    keys = {
        "id",
        "input_sha256",
        "model_sha256",
        "outputs_sha256",
        "settings",
        "versions",
        "grid",
        "labels",
        "warnings",
        "trust",
    }
    for name in held_out:
        sidecar = read(tiny_run / f"predictions/fold_0/{name}.json")
        assert set(sidecar) == keys
        assert sidecar["id"] == name and sidecar["trust"] is None
        assert set(sidecar["grid"]) == {"shape", "spacing_mm", "affine"}
        assert sidecar["grid"]["shape"] == [20, 18, 10]
        assert {label: row["name"] for label, row in sidecar["labels"].items()} == {
            "1": "organ",
            "2": "lesion",
        }


def test_sidecars_hold_neither_paths_nor_times(tiny_run: Path, held_out: list[str]):
    for name in held_out:
        text = (tiny_run / f"predictions/fold_0/{name}.json").read_text()
        assert "/" not in text and not TIMESTAMP.search(text)


def test_no_stored_text_names_the_folder_of_the_data(tiny_run: Path, tiny_cohort: Path):
    where = str(tiny_cohort.parent.parent).encode()
    assert not [path for path in tiny_run.rglob("*") if path.is_file() and where in path.read_bytes()]


def test_the_training_saw_none_of_the_held_out_cases(tiny_run: Path, held_out: list[str]):
    folds = read(tiny_run / "splits.json")["folds"]
    assert sorted(folds[0] + folds[1]) == sorted(IDS) and not set(folds[0]) & set(folds[1])
    assert held_out == folds[0]


def test_history_has_a_row_an_epoch(tiny_run: Path):
    header, *rows = (tiny_run / "fold_0/history.csv").read_text().splitlines()
    assert header.startswith("epoch,train/loss,train/learning_rate,val/dice") and len(rows) == 2


def test_the_card_holds_the_scores(tiny_run: Path):
    card = (tiny_run / "model/MODEL_CARD.md").read_text()
    dice = read(tiny_run / "evaluation/metrics.json")["labels"]["1"]["dice"]
    assert f"{dice:.4g}" in card


def test_the_report_names_the_mlflow_run(tiny_run: Path):
    mlflow = read(tiny_run / "report.json")["mlflow"]
    assert mlflow["run_id"] == read(tiny_run / "tracking.json")["run_id"]
    assert mlflow["run_id"] in mlflow["url"] and mlflow["url"].startswith("http://127.0.0.1")


def test_progress_goes_to_stderr(tiny_run: Path):
    text = (tiny_run.parent / "stderr.txt").read_text()
    assert "train fold 0 2/2" in text and "Traceback" not in text
