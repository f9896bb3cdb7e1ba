"""Finished runs compared on held-out cases whose Dice is written here."""

import csv
import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from medseg.config.layers import save
from medseg.config.pipelines import find_pipeline
from medseg.core.errors import ConfigError, ResourceError
from medseg.core.files import write_csv
from medseg.core.geometry import Geometry
from medseg.core.lock import lock_folder
from medseg.core.volume import Labels
from medseg.data.splits import Splits
from medseg.io import write_labels
from medseg.workflows.compare_configs import compare_configs, name_runs, train_configs
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from tests.tiny import document, medseg

CASES = [f"case{number:02}" for number in range(12)]
GRID = Geometry.of_spacing((3, 2, 1), (1.0, 2.0, 5.0))
Scores = dict[str, tuple[float | None, float | None]]


def make_run(root: Path, scores: Scores, *, folds: int = 2, seconds: float = 10, **changes: object) -> Path:
    """Return what a comparison reads of a run: 12 cases in two folds, labels 1 and 2."""
    run = RunFolder(root)
    run.root.mkdir(parents=True)
    save(find_pipeline("phantom_ct").model_copy(update=changes), run.root / "config.yaml")
    run.save_splits(Splits((), (tuple(CASES[::2]), tuple(CASES[1::2]))))
    write_csv(run.check / "cases.csv", [{"id": name, "patient": f"of {name}"} for name in CASES])
    held_out = [name for fold in range(folds) for name in CASES[fold::2]]
    rows = [
        {"id": name, "label": label, "dice": value}
        for name in held_out
        for label, value in zip((1, 2), scores[name], strict=True)
    ]
    write_csv(run.evaluation / "cases.csv", rows)
    run.model.mkdir()
    for fold in range(folds):
        write_csv(run.fold(fold) / "history.csv", [{"epoch": 1, "time/epoch_s": seconds}])
        header = json.dumps({"a": {"shape": [2, 3]}, "__metadata__": {}}).encode()
        content = struct.pack("<Q", len(header)) + header
        (run.model / f"weights_fold_{fold}.safetensors").write_bytes(content)
    for name in held_out:
        path = run.store / name / "reference.nii.gz"
        write_labels(path, Labels(np.ones(GRID.shape, np.uint8), GRID))
    return root


def constant(first: float | None, second: float | None = 0.5) -> Scores:
    return dict.fromkeys(CASES, (first, second))


def noisy(mean: float) -> Scores:
    return {name: (mean + (0.1 if number % 2 else -0.1), 0.5) for number, name in enumerate(CASES)}


def compare(*roots: Path) -> dict:
    report = Report("compare-configs")
    compare_configs([RunFolder(root) for root in roots], seed=0, progress=Progress(), report=report)
    return report.extra["comparison"]


def test_a_gain_in_every_case_names_the_winner(tmp_path: Path):
    found = compare(make_run(tmp_path / "a", constant(0.7)), make_run(tmp_path / "b", constant(0.8)))
    assert (found["winner"], found["advised"]) == ("b", "b") and found["conclusion"].startswith("best: b;")
    best, other = found["configs"]
    assert (best["name"], best["mean_dice"], best["behind_best"]) == ("b", 0.65, None)
    assert other["behind_best"]["mean"] == other["behind_best"]["low"] == pytest.approx(0.05)
    assert other["labels"]["1"] == {"name": "organ", "dice": 0.7, "n": 12}


def test_where_no_difference_is_shown_the_cheaper_is_advised(tmp_path: Path):
    dear = make_run(tmp_path / "dear", noisy(0.71), seconds=90)
    cheap = make_run(tmp_path / "cheap", constant(0.70), seconds=30)
    found = compare(dear, cheap)
    assert found["configs"][0]["name"] == "dear" and found["winner"] is None
    assert found["advised"] == "cheap" and found["conclusion"].startswith(
        "no difference shown between dear, cheap"
    )
    assert [row["training_s"] for row in found["configs"]] == [90, 30]
    assert found["configs"][0]["parameters"] == 6


def test_what_is_shown_to_be_worse_is_not_advised_though_it_is_cheapest(tmp_path: Path):
    runs = [
        make_run(tmp_path / "dear", noisy(0.71), seconds=90),
        make_run(tmp_path / "cheap", constant(0.70), seconds=30),
        make_run(tmp_path / "poor", constant(0.40), seconds=1),
    ]
    assert compare(*runs)["advised"] == "cheap"


def test_labels_nobody_holds_are_left_out_and_a_spurious_one_costs(tmp_path: Path):
    scores = constant(0.6, None)
    spurious = {**scores, CASES[0]: (0.6, 0.0)}
    found = compare(make_run(tmp_path / "clean", scores), make_run(tmp_path / "spurious", spurious))
    clean, other = found["configs"]
    assert clean["labels"]["2"] == {"name": "lesion", "dice": 1, "n": 1} and other["labels"]["2"]["dice"] == 0
    assert clean["mean_dice"] == pytest.approx((11 * 0.6 + 0.8) / 12, abs=1e-6)


def test_a_case_without_any_label_says_nothing(tmp_path: Path):
    scores = {**constant(0.6, None), CASES[0]: (None, None)}
    found = compare(make_run(tmp_path / "a", scores), make_run(tmp_path / "b", scores))
    assert found["n_cases"] == 11
    assert found["configs"][0]["labels"]["2"] == {"name": "lesion", "dice": None, "n": 0}


def test_one_fold_of_each_can_be_compared_and_few_patients_show_nothing(tmp_path: Path):
    roots = [make_run(tmp_path / name, constant(dice), folds=1) for name, dice in (("a", 0.5), ("b", 0.9))]
    found = compare(*roots)
    assert (found["folds"], found["n_patients"], found["winner"]) == ([0], 6, "b")
    for root in roots:
        write_csv(root / "check/cases.csv", [{"id": name, "patient": name[-1:] in "02"} for name in CASES])
    assert compare(*roots)["winner"] is None


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def change_labels(root: Path) -> None:
    config = RunFolder(root).load_config()
    data = config.data.model_copy(update={"labels": {1: "organ", 2: "cyst"}})
    save(config.model_copy(update={"data": data}), root / "config.yaml")


def change_splits(root: Path) -> None:
    splits = json.loads((root / "splits.json").read_text())
    splits["folds"].reverse()
    (root / "splits.json").write_text(json.dumps(splits))


def change_reference(root: Path) -> None:
    path = root / "store" / CASES[3] / "reference.nii.gz"
    write_labels(path, Labels(np.zeros(GRID.shape, np.uint8), GRID))


def forget_a_fold(root: Path) -> None:
    (root / "model/weights_fold_1.safetensors").unlink()
    rows = read_rows(root / "evaluation/cases.csv")
    write_csv(root / "evaluation/cases.csv", [row for row in rows if row["id"] in CASES[::2]])


def forget_a_case(root: Path) -> None:
    rows = read_rows(root / "evaluation/cases.csv")
    write_csv(root / "evaluation/cases.csv", rows[2:])


def forget_the_evaluation(root: Path) -> None:
    (root / "evaluation/cases.csv").unlink()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (change_labels, "LABELS_DIFFER"),
        (change_splits, "SPLITS_DIFFER"),
        (change_reference, "REFERENCES_DIFFER"),
        (forget_a_fold, "CASES_DIFFER"),
        (forget_a_case, "RUN_INCOMPLETE"),
        (forget_the_evaluation, "RUN_INCOMPLETE"),
    ],
)
def test_what_cannot_be_paired_is_refused(change, code: str, tmp_path: Path):
    one, other = (make_run(tmp_path / name, constant(0.5)) for name in "ab")
    change(other)
    with pytest.raises(ConfigError) as caught:
        compare(one, other)
    assert caught.value.code == code


def test_a_reference_of_other_bytes_and_the_same_voxels_is_the_same(tmp_path: Path):
    one, other = (make_run(tmp_path / name, constant(0.5)) for name in "ab")
    path = other / "store" / CASES[3] / "reference.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    assert path.read_bytes() != (one / "store" / CASES[3] / "reference.nii.gz").read_bytes()
    assert compare(one, other)["winner"] is None


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart():
    assert name_runs([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert name_runs([Path("/x/a/RUN"), Path("/x/b/RUN")]) == ["a/RUN", "b/RUN"]


@pytest.mark.parametrize("roots", [["/x/a"], ["/x/a", "/x/b", "/x/../x/a"]])
def test_one_run_or_the_same_twice_is_refused(roots: list[str]):
    with pytest.raises(ConfigError, match="different runs"):
        name_runs([Path(root) for root in roots])


def test_the_command_writes_a_report_and_the_paired_values(tmp_path: Path):
    runs = [make_run(tmp_path / name, constant(dice)) for name, dice in (("a", 0.7), ("b", 0.8))]
    result = medseg("compare-configs", *runs, "-o", tmp_path / "OUT", "--json")
    assert result.exit_code == 0, result.stderr
    tree = document(result)
    assert json.loads((tmp_path / "OUT/report.json").read_text()) == tree
    assert (tree["command"], tree["comparison"]["winner"]) == ("compare-configs", "b")
    assert {case["status"] for case in tree["cases"]} == {"done"} and len(tree["cases"]) == 12
    first = read_rows(tmp_path / "OUT/paired.csv")[0]
    expected = {"id": "case00", "patient": "of case00", "fold": "0", "label": "mean", "name": ""}
    assert first == {**expected, "a": "0.6", "b": "0.65"}
    assert "0.0500 behind the best (95 % interval 0.0500 to 0.0500)" in result.stderr


def test_without_an_output_folder_nothing_is_written(tmp_path: Path):
    runs = [make_run(tmp_path / name, constant(0.5), folds=1) for name in "ab"]
    write_csv(runs[0] / "check/cases.csv", [{"id": name, "patient": "one"} for name in CASES])
    before = sorted(tmp_path.rglob("*"))
    result = medseg("compare-configs", *runs)
    assert result.exit_code == 0 and "too few to tell" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def write_configs(folder: Path, **texts: str) -> list[Path]:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(f"pipeline: phantom_ct\n{text}\n")
    return [folder / f"{name}.yaml" for name in texts]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--data", "here"], "CONFIG"),
        (["--configs", "a.yaml", "b.yaml", "-o", "OUT"], "CONFIG"),
        (["--set", "seed=1"], "CONFIG"),
        (["--data", "here", "-o", "OUT", "--configs", "a.yaml"], "two or more files"),
        (["--data", "here", "-o", "OUT", "--configs", "a.yaml", "split.yaml"], "SPLITS_DIFFER"),
        (["--data", "here", "-o", "OUT", "--configs", "a.yaml", "labels.yaml"], "LABELS_DIFFER"),
        (["--data", "here", "-o", "OUT", "--configs", "a.yaml", "typo.yaml"], "did you mean `unet`"),
        (["--data", "here", "-o", "OUT", "--configs", "a.yaml", "b.yaml", "--fold", "9"], "UNKNOWN_FOLD"),
    ],
)
def test_a_training_that_could_not_be_compared_is_refused_before_it_begins(
    options: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_configs(
        tmp_path,
        a="{}",
        b="{}",
        split="split: {folds: 3}",
        labels="data: {labels: {1: organ}}",
        typo="model: {name: unett}",
    )
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("pipeline: phantom_ct\n")
    result = medseg("compare-configs", "phantom_ct", *options)
    assert result.exit_code == 2 and word in result.stderr and not (tmp_path / "OUT").exists()


def test_configs_are_trained_compared_and_on_the_second_call_only_compared(tiny_cohort: Path, tmp_path: Path):
    tiny = (tiny_cohort / "tiny.yaml").read_text().replace("epochs: 2", "epochs: 1")
    for name in ("narrow", "wide"):
        (tmp_path / f"{name}.yaml").write_text(
            tiny.replace("[4, 8, 8]", "[4, 8, 8]" if name == "narrow" else "[4, 8, 12]")
        )
    options = ("--data", tiny_cohort, "-o", tmp_path / "OUT", "--fold", "0", "--no-tracking", "--json")
    files = ("--configs", tmp_path / "narrow.yaml", tmp_path / "wide.yaml")
    result = medseg("compare-configs", "phantom_ct", *options, *files)
    assert result.exit_code == 0, result.stderr
    found = document(result)["comparison"]
    assert {row["name"] for row in found["configs"]} == {"narrow", "wide"} and found["n_cases"] == 3
    again = medseg("compare-configs", "phantom_ct", *options, *files)
    assert document(again)["comparison"] == found and "train fold 0 1/1" not in again.stderr


def test_the_command_explains_itself():
    assert "medseg compare-configs" in medseg("compare-configs", "--help").stdout


def test_a_run_folder_in_use_is_not_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[object] = []
    monkeypatch.setattr("medseg.workflows.compare_configs.run", lambda *a, **k: started.append(1))
    config = find_pipeline("phantom_ct")
    with lock_folder(tmp_path / "a"), pytest.raises(ResourceError) as caught:
        train_configs(
            {"a": config, "b": config},
            tmp_path,
            tmp_path,
            folds=[0],
            progress=Progress(),
            report=Report("compare-configs"),
            is_tracked=False,
            key_file=tmp_path / "key",
        )
    assert caught.value.code == "RUN_LOCKED" and started == []
