"""The ledger of trainings: what an experiment is, what a budget holds, what is kept, and what is shown."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import calibration  # noqa: E402
import experiments  # noqa: E402
import ledger  # noqa: E402
import medseg_side  # noqa: E402
import nnunet_side  # noqa: E402
import tables  # noqa: E402
from calibration import BudgetTooSmall, Costs, Schedule, costs_of, schedule_within  # noqa: E402
from experiments import ABLATION, PEER, QUALITY, Experiment, describe, id_of, unique  # noqa: E402
from process_tree import Meter, Stopped, start_of  # noqa: E402

DEFAULT = Experiment("default", 600)
COSTS = Costs(before=10, iteration=1, validation=5, after=10)


def key_of(experiment):
    return id_of(describe(experiment))


# ---- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"budget_cpu_s": 601},
        {"fold": 1},
        {"threads": 2},
        {"side": "nnunet-own"},
        {"settings": {"train.ema_decay": 0}},
        {"settings": {"train.iterations_per_epoch": 7}},
    ],
)
def test_whatever_changes_a_figure_changes_the_id(change):
    assert key_of(replace(DEFAULT, **change)) != key_of(DEFAULT)


RATE = experiments.resolve(DEFAULT)["train"]["learning_rate"]


@pytest.mark.parametrize(
    "settings", [{"train.epochs": 7}, {"summary": "words"}, {"train.learning_rate": str(RATE)}]
)
def test_what_changes_no_figure_keeps_the_id(settings):
    assert key_of(replace(DEFAULT, name="other name", settings=settings)) == key_of(DEFAULT)


def test_the_id_does_not_depend_on_the_order_of_keys():
    assert id_of({"a": 1, "b": {"c": 2, "d": 3}}) == id_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_changed_default_makes_a_new_id(monkeypatch):
    before = key_of(DEFAULT)
    found = experiments.find(DEFAULT.pipeline)
    train = found.train.model_copy(update={"clip_norm": 11.0})
    monkeypatch.setattr(experiments, "find", lambda name: found.model_copy(update={"train": train}))
    assert key_of(DEFAULT) != before


def test_a_setting_that_is_younger_than_the_results_keeps_the_id_while_it_changes_nothing(monkeypatch):
    run, changed = Experiment("a", 60), Experiment("a", 60, settings={"train.hard_cases": True})
    old, other = describe(run), id_of(describe(changed))
    monkeypatch.setattr(experiments, "ADDED", experiments.ADDED | {"train.hard_cases": False})
    assert "hard_cases" in old["config"]["train"]
    assert "hard_cases" not in describe(run)["config"]["train"]
    assert id_of(describe(changed)) == other


def test_all_seeds_hold_out_the_same_cases():
    splits = [experiments.resolve(replace(DEFAULT, seed=seed))["split"] for seed in (0, 1)]
    assert splits[0] == splits[1] and splits[0]["seed"] == 0


def test_an_experiment_of_two_tables_is_run_once():
    assert list(unique([DEFAULT, replace(DEFAULT, name="again")]).values()) == [DEFAULT]


def test_settings_that_this_version_lacks_are_left_out():
    assert not unique([replace(DEFAULT, settings={"train.no_such_setting": 1})])


def test_words_choose_by_table_and_title():
    chosen = ledger.choose("quality 960s seed1").values()
    assert [(run.name, run.budget_cpu_s, run.seed) for run in chosen] == [("default", 960, 1)]


# ---- budgets ------------------------------------------------------------------------------------


def test_costs_are_told_apart_by_what_the_epochs_of_a_short_run_used():
    marks = {"epoch 1": 33.0, "epoch 2": 53.0, "epoch 3": 78.0}
    assert costs_of(marks, 90.0, iterations=10) == Costs(before=13, iteration=2, validation=5, after=12)


def test_epochs_are_shortened_to_fill_the_budget():
    # 80 are free; two validations in four epochs leave 70: 4 x 17. Three full epochs would be 60.
    assert schedule_within(100, COSTS, 20, 2, aim=1.0) == Schedule(epochs=4, iterations_per_epoch=17)


@pytest.mark.parametrize("budget", [60, 137, 600, 2400])
def test_what_is_planned_stays_within_the_aim(budget):
    epochs, length = schedule_within(budget, COSTS, 20, 3)
    planned = 20 + epochs * length * COSTS.iteration + -(-epochs // 3) * COSTS.validation
    assert 0.9 * calibration.AIM * budget < planned <= calibration.AIM * budget


def test_a_budget_that_holds_no_iteration_is_refused():
    with pytest.raises(BudgetTooSmall):
        schedule_within(20, COSTS, 20, 2)


@pytest.mark.parametrize(("cpu_s", "expected"), [(599.0, True), (612.0, True), (612.1, False)])
def test_two_percent_over_is_the_limit(cpu_s, expected):
    assert calibration.is_within(cpu_s, 600) is expected


# ---- metering -----------------------------------------------------------------------------------


def run_python(meter, code, tmp_path, watch=lambda: True):
    return meter.run([sys.executable, "-c", code], {}, tmp_path / "log", watch=watch, poll_s=0.01)


def test_cpu_seconds_of_two_starts_add_up(tmp_path):
    path = tmp_path / "cpu.json"
    assert run_python(Meter(path), "sum(range(10**6))", tmp_path) == 0
    first = Meter(path).cpu_s
    assert run_python(Meter(path), "raise SystemExit(5)", tmp_path) == 5
    assert 0 < first < Meter(path).cpu_s and Meter(path).state["sessions"] == 2


def test_children_are_counted(tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(3 * 10**7))'])"
    alone, both = Meter(tmp_path / "alone.json"), Meter(tmp_path / "both.json")
    run_python(alone, "import subprocess", tmp_path)
    run_python(both, child, tmp_path)
    assert both.cpu_s > alone.cpu_s + 0.1


def test_a_stopped_command_is_gone_and_its_cost_is_kept(tmp_path):
    meter = Meter(tmp_path / "cpu.json")
    sessions = []

    def watch():
        sessions.append(meter.state["running"]["session"])
        return len(sessions) < 5

    with pytest.raises(Stopped):
        run_python(meter, "import time; sum(range(10**7)); time.sleep(60)", tmp_path, watch)
    assert start_of(sessions[0]) is None
    assert Meter(tmp_path / "cpu.json").state["running"] is None and meter.cpu_s > 0


def test_a_command_that_outlived_its_meter_is_stopped_by_the_next_start(tmp_path):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    meter = Meter(tmp_path / "cpu.json")
    meter.state["running"] = {"session": orphan.pid, "since": start_of(orphan.pid), "base": 7.0}
    meter.write()
    run_python(Meter(tmp_path / "cpu.json"), "pass", tmp_path)
    assert orphan.wait() < 0
    assert Meter(tmp_path / "cpu.json").cpu_s > 7.0


def test_a_mark_keeps_its_first_time(tmp_path):
    meter = Meter(tmp_path / "cpu.json")
    meter.mark("epoch 1")
    meter.state["cpu_s"] = 5.0
    meter.mark("epoch 1")
    assert meter.state["marks"] == {"epoch 1": 0.0}


def test_epochs_are_counted_from_the_history(tmp_path):
    meter, history = Meter(tmp_path / "cpu.json"), tmp_path / "history.csv"
    assert list(medseg_side.count_epochs(history, meter)) == []
    history.write_text("epoch\n1.0\n2.0\n3.0\n")
    meter.mark("epoch 1")
    assert list(medseg_side.count_epochs(history, meter)) == [2, 3]


def test_dice_is_read_by_case_and_label(tmp_path):
    (tmp_path / "cases.csv").write_text("id,label,name,dice\na,1,front,0.5\na,2,back,\n")
    (tmp_path / "metrics.json").write_text('{"mean": {"dice": 0.5}}')
    assert medseg_side.read_evaluation(tmp_path) == ({"a": {"front": 0.5, "back": None}}, 0.5)


# ---- the queue ----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")


FOUND = {"mean_dice": 0.9, "dice": {"a": {"x": 0.9}}, "cpu_s": 700.0, "iterations": 3, "curve": []}


def stand_in(found, seen):
    def run(experiment, work, calibrations, goes_on):
        seen.append(experiment.name)
        if isinstance(found, Exception):
            raise found
        work.mkdir(parents=True)
        (work / "commits.json").write_text('["abc"]')
        return found

    return run


def test_a_finished_experiment_is_kept_and_not_run_again(folders, monkeypatch):
    seen = []
    monkeypatch.setattr(medseg_side, "run", stand_in(FOUND, seen))
    chosen = unique([DEFAULT])
    assert [ledger.work_queue(chosen, None) for _ in range(2)] == [0, 0]
    (key,) = chosen
    kept = json.loads((ledger.RESULTS / f"{key}.json").read_text())
    assert seen == ["default"] and kept["id"] == key and not kept["is_within"]
    assert kept["config"] == experiments.resolve(DEFAULT) and ledger.state_of(key).endswith("OVER")


def test_a_failure_is_told_and_the_others_go_on(folders, monkeypatch):
    seen = []
    monkeypatch.setattr(medseg_side, "run", stand_in(medseg_side.Failed("no"), seen))
    chosen = unique([DEFAULT, replace(DEFAULT, seed=1)])
    assert ledger.work_queue(chosen, None) == 1 and len(seen) == 2
    assert {ledger.state_of(key) for key in chosen} == {"failed"}


def test_what_was_over_its_budget_can_be_forgotten(folders, monkeypatch):
    chosen = unique([DEFAULT, replace(DEFAULT, budget_cpu_s=700)])
    monkeypatch.setattr(medseg_side, "run", stand_in(FOUND, []))
    ledger.work_queue(chosen, None)
    ledger.forget_over(chosen)
    assert [ledger.state_of(key).split()[0] for key in chosen] == ["waiting", "done"]


def test_after_a_run_over_its_budget_iterations_are_thought_to_cost_more(tmp_path):
    folder = medseg_side.calibration_folder(DEFAULT, tmp_path)
    folder.mkdir(parents=True)
    medseg_side.write(folder / "costs.json", COSTS._asdict())
    medseg_side.correct(DEFAULT, tmp_path, 1.25)
    again = replace(DEFAULT, seed=2, budget_cpu_s=1200)
    assert medseg_side.calibrate(again, tmp_path, lambda: True) == COSTS._replace(iteration=1.25)


def test_an_interrupted_calibration_starts_afresh(tmp_path, monkeypatch):
    folder = medseg_side.calibration_folder(DEFAULT, tmp_path)
    folder.mkdir(parents=True)
    Meter(folder / "cpu.json").write()

    def call(experiment, work, *_, **__):
        assert list(work.iterdir()) == []
        meter = Meter(work / "cpu.json")
        meter.state |= {"cpu_s": 50.0, "marks": {"epoch 1": 20.0, "epoch 2": 30.0, "epoch 3": 40.0}}
        return meter

    monkeypatch.setattr(medseg_side, "call", call)
    assert medseg_side.calibrate(DEFAULT, tmp_path, lambda: True).after == 10.0


def test_a_stopped_queue_says_so(folders, monkeypatch):
    monkeypatch.setattr(medseg_side, "run", stand_in(Stopped(), []))
    assert ledger.work_queue(unique([DEFAULT]), 1.0) == 3


def test_a_schedule_is_settled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(medseg_side, "calibrate", lambda *_: COSTS)
    first = medseg_side.settle(DEFAULT, tmp_path, tmp_path, lambda: True)
    monkeypatch.setattr(medseg_side, "calibrate", lambda *_: COSTS._replace(iteration=2.0))
    assert medseg_side.settle(DEFAULT, tmp_path, tmp_path, lambda: True) == first


# ---- the peer -----------------------------------------------------------------------------------


def test_nnunet_gets_our_folds():
    assert nnunet_side.to_splits({"folds": [["a", "c"], ["b"]], "test": []}) == [
        {"train": ["b"], "val": ["a", "c"]},
        {"train": ["a", "c"], "val": ["b"]},
    ]


def test_a_scaled_plan_is_thinner_and_its_own_plan_is_left_alone():
    network = {
        "n_stages": 3,
        "features_per_stage": [32, 64, 128],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
    }
    plans = {"configurations": {"3d_fullres": {"batch_size": 7, "architecture": {"arch_kwargs": network}}}}
    scaled = nnunet_side.adapt(plans, {"features": [8, 16], "batch_size": 2})
    configuration = scaled["configurations"]["3d_fullres"]
    assert configuration["batch_size"] == 2
    assert configuration["architecture"]["arch_kwargs"] == {
        "n_stages": 2,
        "features_per_stage": [8, 16],
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [2, 2],
        "n_conv_per_stage_decoder": [2],
    }
    assert network["n_stages"] == 3 and nnunet_side.adapt(plans, {}) is plans


# ---- the page -----------------------------------------------------------------------------------


def make_ledger(folder, results):
    """Write results of experiments: (experiment, Dice of three cases and of three others, CPU seconds)."""
    for experiment, (first, second), cpu_s in results:
        description = describe(experiment)
        cases = {case: {"anterior": first, "posterior": first} for case in "abc"}
        cases |= {case: {"anterior": second, "posterior": None} for case in "def"}
        tree = {
            "id": id_of(description),
            "name": experiment.name,
            "settings": dict(experiment.settings),
            **description,
            "commits": ["abc"],
            "machine": {"cpu": "x", "cores": 2, "bf16": True, "torch": "2"},
            "is_within": calibration.is_within(cpu_s, experiment.budget_cpu_s),
            "mean_dice": (first + second) / 2,
            "dice": cases,
            "cpu_s": cpu_s,
            "iterations": 10,
            "iteration_cpu_s": 0.5,
            "curve": [{"epoch": 4, "cpu_s": 300.0, "dice": 0.8}],
        }
        folder.mkdir(exist_ok=True)
        (folder / f"{tree['id']}.json").write_text(json.dumps(tree))
    return tables.Ledger(folder)


def row_of(text, *cells):
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {' | '.join(cells)} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path):
    runs = [run for run in QUALITY if run.budget_cpu_s == 960]
    book = make_ledger(tmp_path, [(run, (d, d), 950.0) for run, d in zip(runs, (0.8, 0.9, 1.0), strict=True)])
    row = row_of(tables.quality(book), "960")
    assert row[:6] == ["960", "3", "0.9000 ± 0.1000", "0.9000", "0.9000", ">= 0.866"]


def test_a_run_over_its_budget_counts_for_nothing_and_is_told(tmp_path):
    runs = [run for run in QUALITY if run.budget_cpu_s == 960][:2]
    book = make_ledger(tmp_path, [(runs[0], (0.8, 0.8), 960.0), (runs[1], (0.9, 0.9), 990.0)])
    row = row_of(tables.quality(book), "960")
    assert row[1:3] == ["1 of 3", "0.8000"] and row[6] == "<= 990, 1 over budget"


def test_the_difference_to_the_peer_is_paired_by_case(tmp_path):
    ours, theirs = (run for run in PEER if run.budget_cpu_s == 600 and run.side != "nnunet-own")
    book = make_ledger(tmp_path, [(ours, (0.75, 1.0), 590.0), (theirs, (0.5, 0.75), 590.0)])
    row = row_of(tables.peer(book), "600", "nnunet-scaled")
    assert row[2:4] == ["0.6250", "+0.2500 [+0.2500, +0.2500]"]
    assert row_of(tables.peer(book), "600", "nnunet-own")[2:4] == [tables.MISSING] * 2


def test_few_cases_have_no_interval():
    assert tables.show(tables.paired_interval([0.75] * 5, [0.5] * 5), sign="+") == "+0.2500"


def test_a_variant_is_compared_over_the_seeds_that_both_have(tmp_path):
    default = [run for run in ABLATION if run.name == "default"]
    off = [run for run in ABLATION if run.name == "EMA off"]
    book = make_ledger(
        tmp_path,
        [(run, (0.75, 0.75), 590.0) for run in default]
        + [(off[0], (0.5, 0.5), 590.0), (off[1], (0.25, 0.25), 590.0), (off[2], (1.0, 1.0), 700.0)],
    )
    text = tables.ablation(book)
    assert row_of(text, "EMA off")[2:] == ["2 of 3", "0.3750 ± 0.1768", "-0.3750 [-0.3750, -0.3750]"]
    same = {run.name for run in ABLATION[3:] if set(unique([run])) & set(unique(default))}
    assert (
        {name for name in experiments.VARIANTS if row_of(text, name)[-1] == "is the default"} == same != set()
    )


def test_folds_are_one_row_over_all_their_cases(tmp_path):
    runs = [run for run in experiments.TASKS if run.pipeline == experiments.SARCOMA][:2]
    book = make_ledger(tmp_path, [(run, (0.5, 0.5), 590.0) for run in runs])
    row = row_of(tables.tasks(book), experiments.SARCOMA)
    assert row[1:4] == ["2 of 5", "12", "0.5000 [0.5000, 0.5000]"]


def test_a_fold_beyond_what_the_task_allows_is_left_out(tmp_path):
    runs = [run for run in experiments.TASKS if run.pipeline == experiments.SARCOMA][:2]
    book = make_ledger(tmp_path, [(runs[0], (0.5, 0.5), 1200.0), (runs[1], (1.0, 1.0), 1201.0)])
    row = row_of(tables.tasks(book), experiments.SARCOMA)
    assert (row[1], row[-1]) == ("1 of 5", "<= 1200")


def test_networks_are_shown_with_their_size_or_why_they_have_none(tmp_path, monkeypatch):
    measured = {"options": {"size": "small"}, "parameters": 1_250_000, "gflop": 2.5, "step_cpu_s": 0.125}
    rows = [{"network": "a", "dims": 3, **measured}, {"network": "b", "dims": 2, "reason": "too deep"}]
    monkeypatch.setattr(tables, "SIZES", tmp_path / "networks.json")
    assert len(tables.sizes(tables.Ledger(tmp_path)).splitlines()) == 2
    (tmp_path / "networks.json").write_text(json.dumps({"rows": rows}))
    text = tables.sizes(tables.Ledger(tmp_path / "none"))
    assert row_of(text, "a", "3D")[2:] == ["`size=small`", "1.250 M", "2.50", "0.125"]
    assert row_of(text, "b", "2D")[-1] == "too deep"


def test_a_recipe_that_is_in_no_table_is_shown_as_tried(tmp_path):
    other = Experiment("wide", 600, settings={"train.clip_norm": 1.0})
    row = row_of(tables.tried(make_ledger(tmp_path, [(other, (0.5, 0.5), 500.0)])), "hippocampus_mr", "wide")
    assert row[2:7] == ["`train.clip_norm=1.0`", "600", "0", "0", "0.5000"]


def test_only_what_is_between_markers_changes(tmp_path):
    page = "above\n<!-- ledger: machines -->\nold\n<!-- ledger: end -->\nbelow\n"
    filled = tables.fill(page, make_ledger(tmp_path, [(DEFAULT, (0.5, 0.5), 500.0)]))
    assert filled.splitlines()[0] == "above" and filled.splitlines()[-1] == "below" and "old" not in filled
    assert row_of(filled, "x, 2 cores, bf16, torch 2")[1] == "1"


def test_the_page_shows_what_the_kept_results_say():
    page = tables.PAGE.read_text()
    assert tables.fill(page, tables.Ledger(ledger.RESULTS)) == page, (
        "run `python benchmarks/ledger.py report`"
    )


def test_every_table_has_its_place_on_the_page():
    assert sorted(match[1] for match in tables.MARK.findall(tables.PAGE.read_text())) == sorted(tables.PARTS)
