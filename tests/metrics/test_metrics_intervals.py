"""Intervals, strata and groups of cohorts whose numbers are written down."""

import json
from functools import partial

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.metrics import Scores, rows, summarise
from medseg.metrics.case import CaseMetrics, LabelMetrics
from medseg.metrics.intervals import Resamples
from medseg.metrics.paired import bootstrap_mean

DICE = [0.9, 0.8, 0.85, 0.7, 0.95, 0.6, 0.88, 0.92, 0.75]


def case(name, dice, *, volume=1.0, state="present", **more):
    values = {"dice": dice, "volume_reference_ml": volume, **more}
    return CaseMetrics(name, {1: LabelMetrics("liver", state, values)}, dice, 1.0, {})


def cohort(dice=DICE):
    return [case(f"c{at}", value, volume=float(at + 1)) for at, value in enumerate(dice)]


def test_the_interval_of_a_label_is_that_of_the_paired_bootstrap():
    expected = bootstrap_mean(DICE, range(len(DICE)), seed=0)
    summary = summarise(cohort())
    assert summary["labels"]["1"]["ci95"]["dice"] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert summary["mean"]["ci95"]["dice"] == summary["labels"]["1"]["ci95"]["dice"]


def test_two_scans_of_a_patient_are_one_witness():
    twice = [case(f"c{at}{copy}", value) for at, value in enumerate(DICE) for copy in "ab"]
    patients = {one.case_id: one.case_id[:-1] for one in twice}
    once, known, unknown = summarise(cohort()), summarise(twice, patients=patients), summarise(twice)
    wide, narrow = (np.ptp(s["labels"]["1"]["ci95"]["dice"]) for s in (known, unknown))
    assert known["labels"]["1"]["ci95"]["dice"] == pytest.approx(
        once["labels"]["1"]["ci95"]["dice"], abs=1e-6
    )
    assert (known["labels"]["1"]["patients"], known["intervals"]["patients"]) == (9, 9)
    assert narrow < 0.8 * wide


def test_few_patients_have_no_interval():
    summary = summarise(cohort(DICE[:5]))
    assert summary["labels"]["1"]["ci95"] == {"dice": None, "volume_reference_ml": None}
    assert summary["mean"]["ci95"]["miou"] is None


def test_a_value_that_few_patients_have_has_no_interval():
    cases = [case(f"c{at}", value, hd95_mm=2.0 if at < 5 else None) for at, value in enumerate(DICE)]
    found = summarise(cases)["labels"]["1"]
    assert (found["hd95_mm"], found["ci95"]["hd95_mm"]) == (2, None)
    assert found["ci95"]["dice"]


def test_the_method_is_told():
    method = summarise(cohort())["intervals"]
    assert "Hesterberg" in method["method"]
    assert (method["resamples"], method["level"], method["min_patients"], method["seed"]) == (
        10000,
        0.95,
        6,
        0,
    )


def test_many_patients_are_drawn_less_often(monkeypatch):
    monkeypatch.setattr("medseg.metrics.intervals.MAX_DRAWN", 9 * 2000)
    assert Resamples(range(9)).count == 2000
    assert Resamples(range(9000)).count == 1000


def test_drawing_and_multiplying_in_pieces_changes_nothing(monkeypatch):
    whole = summarise(cohort())
    monkeypatch.setattr("medseg.metrics.intervals.AT_ONCE", 9 * 77)
    assert summarise(cohort()) == whole


def test_strata_are_tertiles_of_the_reference_volume():
    strata = summarise(cohort())["strata"]
    assert "tertiles" in strata["by"]
    found = strata["labels"]["1"]
    assert [row["n"] for row in found.values()] == [3, 3, 3]
    assert found["small"]["dice"] == pytest.approx(np.mean(DICE[:3]))
    assert found["large"]["dice"] == pytest.approx(np.mean(DICE[6:]))
    assert (found["small"]["from_ml"], found["large"]["to_ml"]) == (1, 9)


def test_cases_without_a_reference_are_in_no_stratum():
    cases = [*cohort(), case("x", 0.0, volume=0.0, state="spurious")]
    found = summarise(cases)["strata"]["labels"]["1"]
    assert sum(row["n"] for row in found.values()) == 9


@pytest.mark.parametrize("dice", [DICE[:2], []])
def test_too_few_sizes_make_no_strata(dice):
    assert summarise(cohort(dice))["strata"]["labels"].get("1") is None


def test_without_volumes_there_are_no_strata():
    cases = [CaseMetrics("a", {1: LabelMetrics("liver", "present", {"dice": 1.0})}, 1.0, 1.0, {})]
    assert summarise(cases)["strata"]["labels"] == {"1": None}


def test_groups_have_their_own_means_and_intervals():
    groups = {"site": {f"c{at}": "A" if at < 6 else "B" for at in range(8)}}
    found = summarise(cohort(), groups=groups)["groups"]["site"]
    assert {name: row["n_cases"] for name, row in found.items()} == {"A": 6, "B": 2, "not given": 1}
    assert found["A"]["labels"]["1"]["dice"] == pytest.approx(np.mean(DICE[:6]))
    assert found["A"]["labels"]["1"]["ci95"]["dice"] and not found["B"]["labels"]["1"]["ci95"]["dice"]
    assert found["B"]["mean"]["miou"] == pytest.approx(np.mean(DICE[6:8]))


def test_a_column_that_groups_nothing_is_refused():
    cases = [case(f"c{at}", 0.5) for at in range(51)]
    with pytest.raises(ConfigError) as caught:
        summarise(cases, groups={"age": {one.case_id: one.case_id for one in cases}})
    assert caught.value.code == "GROUPS_INVALID"


def test_false_positives_are_per_scan_and_count_scans_without_lesions():
    cases = [
        case("a", 0.5, lesion_false_positives=3.0),
        case("b", None, state="both_empty", lesion_false_positives=0.0),
    ]
    found = summarise(cases)["labels"]["1"]
    assert (found["lesion_false_positives"], found["n"]) == (1.5, 1)


def test_a_label_that_a_case_does_not_list_is_in_neither_of_its_masks():
    scores = Scores({"dice": None, "volume_reference_ml": 0.0})
    scores.add(CaseMetrics("b", {2: LabelMetrics("2", "missed", {"dice": 0.0})}, 0.0, 1.0, {}))
    scores.add(case("a", 1.0))
    table = [(row["id"], row["label"], row["state"], row["dice"]) for row in rows(scores)]
    assert table == [
        ("a", 1, "present", 1),
        ("a", 2, "both_empty", None),
        ("b", 1, "both_empty", None),
        ("b", 2, "missed", 0),
    ]
    assert summarise(scores)["labels"]["1"]["n_both_empty"] == 1


def test_scores_read_as_a_sequence_sorted_by_id():
    scores = Scores()
    for one in reversed(cohort()):
        scores.add(one)
    assert [one.case_id for one in scores] == [one.case_id for one in scores[:]] == scores.ids
    assert (len(scores), scores[0].labels[1].values["dice"], scores[-1].case_id) == (9, 0.9, "c8")


def test_confusion_is_summed_over_cases():
    confused = partial(
        CaseMetrics, labels={2: LabelMetrics("2", "present", {})}, miou=1.0, pixel_accuracy=1.0
    )
    cases = [confused(name, options={}, confusion={(0, 2): 3, (2, 2): 1}) for name in "ab"]
    assert summarise(cases)["confusion"] == {"labels": [0, 2], "voxels": [[0, 6], [0, 2]]}


def test_nothing_is_nan():
    cases = [case("a", None, state="both_empty"), case("b", None, state="missed", volume=None)]
    assert "NaN" not in json.dumps(summarise(cases))
