"""Two results compared, whose scores are written here."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t, wilcoxon

from medseg.config.layers import save
from medseg.config.pipelines import find_pipeline
from medseg.core.errors import ConfigError
from medseg.core.files import write_csv, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.io import write_labels
from medseg.workflows.compare import compare
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.scores import is_better_low
from tests.tiny import document, medseg

CASES = [f"case{number:02}" for number in range(12)]
GRID = Geometry.of_spacing((3, 2, 1), (1.0, 2.0, 5.0))
RNG = np.random.default_rng(0)
RNG_OF_SCIPY = np.random.default_rng(7)
A = {case: {"1": float(dice), "2": 0.5} for case, dice in zip(CASES, RNG.uniform(0.6, 0.9, 12), strict=True)}
GAINS = dict(zip(CASES, RNG.normal(0.05, 0.02, 12), strict=True))
B = {case: {"1": A[case]["1"] + GAINS[case], "2": 0.5} for case in CASES}
NAMES = {"1": "organ", "2": "lesion", "region": "all"}


def write_scores(root: Path, scores, metric="dice", **columns) -> Path:
    rows = [
        {"id": case, "label": label, "name": NAMES.get(label, label), metric: value, **columns}
        for case, labels in scores.items()
        for label, value in labels.items()
    ]
    write_csv(root / "cases.csv", rows)
    return root


def write_run(root: Path, scores, value: int = 1, patients=None) -> Path:
    run = RunFolder(root)
    run.root.mkdir(parents=True)
    save(find_pipeline("phantom_ct"), root / "config.yaml")
    write_scores(run.evaluation, scores)
    patients = patients or {case: f"of {case}" for case in CASES}
    write_csv(run.check / "cases.csv", [{"id": case, "patient": patients[case]} for case in CASES])
    for case in scores:
        path = run.store / case / "reference.nii.gz"
        write_labels(path, Labels(np.full(GRID.shape, value, np.uint8), GRID))
    return root


def find(a: Path, b: Path, metric="dice", **options):
    report = Report("compare")
    compare(a, b, metric=metric, seed=0, progress=Progress(), report=report, is_tracked=False, **options)
    return report.extra["comparison"]


def pair_of(tmp_path: Path, a=A, b=B, **options):
    return write_scores(tmp_path / "a", a, **options), write_scores(tmp_path / "b", b, **options)


def test_table_and_interval_are_those_of_a_plain_computation(tmp_path):
    found = find(*pair_of(tmp_path), out=tmp_path / "out")
    with (tmp_path / "out" / "compare.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == "1"]
    a, b = (np.array([float(row[side]) for row in rows]) for side in "ab")

    # The expanded percentile interval (Hesterberg 2015), written anew.
    drawn = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=10_000)
    z = t.ppf(0.025, 11) * np.sqrt(12 / 11)
    low, high = np.quantile(drawn @ (b - a) / 12, [norm.cdf(z), 1 - norm.cdf(z)])
    row = found["rows"][1]
    assert (row["a"], row["b"]) == (pytest.approx(a.mean(), abs=1e-6), pytest.approx(b.mean(), abs=1e-6))
    assert [row["delta"][key] for key in ("mean", "low", "high")] == pytest.approx(
        [(b - a).mean(), low, high], abs=2e-6
    )
    assert row["wilcoxon_p"] == pytest.approx(wilcoxon(b - a).pvalue, rel=1e-5)
    assert (row["n_b_better"], row["n_a_better"], row["n_equal"]) == (12, 0, 0)


def test_the_command_finds_what_scipy_finds(tmp_path):
    ours, theirs = RNG_OF_SCIPY.uniform(0.6, 0.9, 15).round(6), RNG_OF_SCIPY.normal(0.03, 0.04, 15).round(6)
    a, b = (
        {f"case{number:02}": {"1": float(value)} for number, value in enumerate(values)}
        for values in (ours, ours + theirs)
    )
    row = document(medseg("compare", *pair_of(tmp_path, a, b), "--json"))["comparison"]["rows"][0]
    # Levels of 95 % that are expanded for 15 patients, so that scipy takes the same quantiles.
    z = t.ppf(0.975, 14) * np.sqrt(15 / 14)
    drawn, level = 50_000, 2 * norm.cdf(z) - 1
    found = bootstrap(
        (theirs,), np.mean, n_resamples=drawn, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    # A quantile of B draws of a normal mean is off by sqrt(p (1 - p) / B) / density: four of that for both.
    tail, spread = norm.sf(z), theirs.std() / np.sqrt(15)
    once = np.sqrt(tail * (1 - tail)) / norm.pdf(z) * spread
    tolerance = 4 * once * np.sqrt(1 / 10_000 + 1 / drawn)

    assert row["wilcoxon_p"] == pytest.approx(wilcoxon(theirs).pvalue, rel=1e-5)
    assert row["delta"]["mean"] == pytest.approx(theirs.mean(), abs=1e-6)
    assert [row["delta"]["low"], row["delta"]["high"]] == pytest.approx([*found], abs=tolerance)
    assert tolerance < (z - norm.ppf(0.975)) * spread  # levels that are not expanded would be noticed
    assert (row["n_b_better"], row["n_a_better"]) == (sum(theirs > 0), sum(theirs < 0)) != (15, 0)


def test_the_mean_over_labels_decides(tmp_path):
    found = find(*pair_of(tmp_path))

    assert found["rows"][0]["delta"]["mean"] == pytest.approx(np.mean(list(GAINS.values())) / 2, abs=1e-6)
    assert found["better"] == "b"
    assert found["verdict"].startswith("B is better by 0.0")
    assert found["rows"][2]["wilcoxon_p"] is None


def test_the_order_of_the_two_only_changes_the_sign(tmp_path):
    a, b = pair_of(tmp_path)
    found, turned = find(a, b), find(b, a)

    assert turned["better"] == "a"
    assert turned["rows"][1]["delta"]["low"] == pytest.approx(-found["rows"][1]["delta"]["high"], abs=1e-4)


def test_what_goes_both_ways_shows_no_difference(tmp_path):
    b = {case: {"1": A[case]["1"] + (0.01 if n % 2 else -0.01), "2": 0.5} for n, case in enumerate(CASES)}
    found = find(*pair_of(tmp_path, b=b))

    assert found["better"] is None
    assert found["verdict"].startswith("no difference shown: B − A = ")
    assert [found["rows"][1][key] for key in ("n_b_better", "n_a_better", "n_equal")] == [6, 6, 0]


def test_of_distances_less_is_better(tmp_path):
    found = find(*pair_of(tmp_path, metric="hd95_mm"), metric="hd95_mm")

    assert found["better"] == "a"
    assert found["rows"][1]["n_a_better"] == 12


def test_of_signed_errors_the_size_is_compared(tmp_path):
    a, b = ({case: {"1": value} for case in CASES} for value in (-3.0, 2.0))
    found = find(*pair_of(tmp_path, a, b, metric="volume_error_ml"), metric="volume_error_ml")

    assert (found["rows"][1]["a"], found["rows"][1]["b"], found["better"]) == (3.0, 2.0, "b")
    assert "|volume_error_ml|" in found["measure"]


@pytest.mark.parametrize(
    ("metric", "is_low"), [("hd_mm", True), ("lesion_false_positives", True), ("ece", True), ("pq", False)]
)
def test_the_better_direction_follows_from_the_name(metric, is_low):
    assert is_better_low(metric) is is_low


def test_five_patients_are_too_few_to_tell(tmp_path):
    a, b = ({case: scores[case] for case in CASES[:5]} for scores in (A, B))
    found = find(*pair_of(tmp_path, a, b))

    assert found["better"] is None
    assert found["verdict"].startswith("too few patients to tell (5, 6 are needed)")


def test_a_label_that_one_result_invented_costs_it_and_one_in_neither_does_not_count(tmp_path):
    a = {**A, CASES[0]: {"1": 0.7, "2": None}, CASES[1]: {"1": 0.7, "2": None}}
    b = {**B, CASES[0]: {"1": 0.7, "2": 0.0}, CASES[1]: {"1": 0.7, "2": None}}
    row = find(*pair_of(tmp_path, a, b))["rows"][2]

    assert row["delta"]["n_cases"] == 11
    assert row["delta"]["mean"] == pytest.approx(-1 / 11, abs=1e-6)


def test_pairs_that_one_alone_defines_are_told_in_the_verdict(tmp_path):
    a = {case: {**labels, "1": None} if case == CASES[0] else labels for case, labels in A.items()}
    found = find(*pair_of(tmp_path, a, B, metric="hd95_mm"), metric="hd95_mm")
    assert (found["left_out"]["pairs_of_a"], found["left_out"]["pairs_of_b"]) == (0, 1)
    assert found["verdict"].endswith("; 1 pair that one alone defines not counted (A 0, B 1)")


def test_an_invented_lesion_counts_against_its_finder(tmp_path):
    healthy = {case: {"1": None} for case in CASES}
    found = find(
        *pair_of(tmp_path, healthy, {case: {"1": 0.0} for case in CASES}, metric="lesion_f1"),
        metric="lesion_f1",
    )
    assert (found["better"], found["rows"][0]["delta"]["mean"]) == ("a", -1)


def test_an_undefined_distance_leaves_its_pair_out(tmp_path):
    a = {**A, CASES[0]: {"1": None, "2": None}}
    found = find(*pair_of(tmp_path, a, metric="hd95_mm"), metric="hd95_mm")

    assert found["n_cases"] == 11
    assert found["left_out"]["cases_undefined"] == [CASES[0]]


def test_what_only_one_has_is_left_out_and_named(tmp_path):
    a = {**A, "only": {"1": 0.1}}
    b = {case: {**labels, "3": 0.2} for case, labels in B.items() if case != CASES[0]}
    found = find(*pair_of(tmp_path, a, b))

    assert found["n_cases"] == 11
    assert found["left_out"] == {
        "cases_of_a": [CASES[0], "only"], "cases_of_b": [], "cases_undefined": [], "labels": ["3"],
            "pairs_of_a": 0, "pairs_of_b": 0,
    }  # fmt: skip


def test_a_region_has_its_row_but_no_part_in_the_mean(tmp_path):
    a, b = (
        {case: {**labels, "region": value} for case, labels in scores.items()}
        for scores, value in ((A, 1), (B, 0))
    )
    found = find(*pair_of(tmp_path, a, b), out=tmp_path / "out")

    assert found["better"] == "b"
    assert found["rows"][3]["name"] == "all (region)"
    assert found["rows"][3]["delta"]["mean"] == -1


def test_two_scans_of_a_patient_are_drawn_together(tmp_path):
    patients = {case: CASES.index(case) // 2 for case in CASES}
    found = find(write_run(tmp_path / "a", A, patients=patients), write_scores(tmp_path / "b", B))

    assert (found["n_cases"], found["n_patients"]) == (12, 6)
    assert found["references"] == "not known"


def test_a_patient_column_of_an_evaluation_is_read(tmp_path):
    found = find(*pair_of(tmp_path, patient="one"))

    assert found["n_patients"] == 1


def test_runs_are_compared_on_the_same_voxels(tmp_path):
    found = find(write_run(tmp_path / "a", A), write_run(tmp_path / "b", B))

    assert found["references"] == "the same voxels"
    assert found["patients"] == "as the run or the table of groups names them"


def test_evaluations_are_compared_on_the_same_volumes(tmp_path):
    assert find(*pair_of(tmp_path, volume_reference_ml=1.5))["references"] == "the same volumes"


def refuse(a: Path, b: Path, metric="dice") -> str:
    with pytest.raises(ConfigError) as caught:
        find(a, b, metric)
    return caught.value.code


def test_runs_on_different_references_are_refused(tmp_path):
    assert refuse(write_run(tmp_path / "a", A, 1), write_run(tmp_path / "b", B, 2)) == "REFERENCES_DIFFER"


def test_evaluations_whose_references_differ_in_volume_are_refused(tmp_path):
    a = write_scores(tmp_path / "a", A, volume_reference_ml=1.5)
    b = write_scores(tmp_path / "b", B, volume_reference_ml=1.6)

    assert refuse(a, b) == "REFERENCES_DIFFER"


def test_results_without_a_shared_case_are_refused(tmp_path):
    assert refuse(*pair_of(tmp_path, b={"other": {"1": 0.5}})) == "NO_CASES"


def test_results_without_a_defined_pair_are_refused(tmp_path):
    a, b = ({case: {"1": value} for case in CASES} for value in (None, 3.0))

    assert refuse(*pair_of(tmp_path, a, b, metric="hd95_mm"), metric="hd95_mm") == "NO_CASES"


def test_a_label_with_two_names_is_refused(tmp_path):
    a, b = pair_of(tmp_path)
    (b / "cases.csv").write_text((b / "cases.csv").read_text().replace("organ", "liver"))

    assert refuse(a, b) == "LABELS_DIFFER"


def test_a_label_that_one_result_only_numbers_is_the_same_label(tmp_path):
    a, b = pair_of(tmp_path)
    (b / "cases.csv").write_text((b / "cases.csv").read_text().replace("organ", "1"))

    assert find(a, b)["n_cases"] == 12


def test_a_metric_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    assert refuse(*pair_of(tmp_path), metric="nsd") == "METRIC_MISSING"


@pytest.mark.parametrize("text", ["id,dice\na,1\n", "id,label,dice\na,1\n", "id,label,dice\na,1,good\n"])
def test_a_table_without_scores_is_refused(text, tmp_path):
    a, b = pair_of(tmp_path)
    (b / "cases.csv").write_text(text)

    assert refuse(a, b) == "SCORES_INVALID"


def test_a_folder_without_scores_is_refused(tmp_path):
    a, _ = pair_of(tmp_path)

    assert refuse(a, tmp_path) == "RUN_MISSING"


def test_a_run_that_is_not_trained_is_refused(tmp_path):
    run = write_run(tmp_path / "run", A)
    (run / "evaluation" / "cases.csv").unlink()

    assert refuse(run, write_scores(tmp_path / "b", B)) == "RUN_INCOMPLETE"


def test_the_command_writes_table_figure_and_document(tmp_path):
    a, b = pair_of(tmp_path)
    result = medseg("compare", a, b, "-o", tmp_path / "out", "--json")

    assert result.exit_code == 0
    assert document(result)["comparison"]["b"] == {"name": "b", "n_cases": 12, "mlflow_run_id": None}
    assert (
        json.loads((tmp_path / "out" / "compare.json").read_text())["comparison"]
        == document(result)["comparison"]
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"compare.{kind}" for kind in ("csv", "json", "png", "svg")
    ]


def test_the_terminal_says_what_is_left_out_and_who_is_better(tmp_path):
    a, b = pair_of(tmp_path, {**A, **{f"more{n}": {"1": 0.1} for n in range(6)}})
    result = medseg("compare", a, b)

    assert "left out, only in A: 6 (more0, more1, more2, more3, more4, …)" in result.stderr
    assert "B is better by" in result.stderr


class Recorder:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.given, self.link, self.is_ended = {}, {"run_id": "new", "url": "link"}, False

    def log_metrics(self, values):
        self.given["metrics"] = values

    def log_table(self, rows, name):
        self.given[name] = json.dumps(rows)

    def log_content(self, content, name):
        self.given[name] = content if isinstance(content, str) else content.decode("latin-1")

    def end(self):
        self.is_ended = True


def test_a_comparison_of_a_tracked_run_is_logged_without_folder_names_and_patients(tmp_path, monkeypatch):
    a, b = write_run(tmp_path / "Smith", A), write_scores(tmp_path / "Jones", B)
    write_json(a / "tracking.json", {"run_id": "known"})
    tracker, calls = Recorder(), []

    def start_run(*names, **about):
        calls.append((names, about))
        return tracker

    monkeypatch.setattr("medseg.workflows.compare.start_run", start_run)
    tree = document(medseg("compare", a, b, "--json"))

    assert tree["mlflow"] == {"run_id": "new", "url": "link"} and tracker.is_ended
    assert calls[0][0] == ("phantom_ct", "compare")
    assert calls[0][1]["tags"]["medseg.compare.a"] == "known"
    assert tracker.given["metrics"]["compare/mean"] == tree["comparison"]["rows"][0]["delta"]["mean"]
    assert {*tracker.given} == {
        "metrics", "compare_cases.json", "compare.json", "compare.png", "compare.svg",
    }  # fmt: skip
    assert not any(word in str((calls, tracker.given)) for word in ("Smith", "Jones", "of case"))


@pytest.mark.parametrize("option", ["--no-tracking", "--tracking"])
def test_nothing_is_logged_where_it_is_not_wanted_or_no_run_was_tracked(option, tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.workflows.compare.start_run", None)
    a, b = write_run(tmp_path / "a", A), write_scores(tmp_path / "b", B)
    if option == "--no-tracking":
        write_json(a / "tracking.json", {"run_id": "known"})

    assert document(medseg("compare", a, b, option, "--json"))["mlflow"] is None


def test_a_label_that_one_evaluation_was_not_asked_for_in_a_case_is_left_out_there(tmp_path):
    b = {**B, CASES[0]: {"1": 0.9}}

    assert find(*pair_of(tmp_path, b=b))["rows"][2]["delta"]["n_cases"] == 11
