"""Which cases come first, and why."""

import pytest

from medseg.tracking.review.flags import Entry, flag_cases, measure_robust_z


def row(dice, name="organ", state="present", label="1", found=10.0, truth=10.0):
    volumes = {"volume_predicted_ml": found, "volume_reference_ml": truth}
    return {"label": label, "name": name, "state": state, "dice": dice, **volumes}


def usual(n=8):
    return [Entry(f"usual-{place}", [row(0.9 + 0.001 * place)]) for place in range(n)]


def find(cases, name):
    return next(case for case in cases if case["id"] == name)


def test_robust_z_counts_scaled_median_deviations():
    # Median 3, absolute deviations 2 1 0 1 97: their median is 1.
    z = measure_robust_z([1, 2, 3, 4, 100], floor=0.01)
    assert [round(value * 1.4826, 3) for value in z] == [-2, -1, 0, 1, 97]


def test_equal_values_have_the_floor_as_spread():
    assert measure_robust_z([1, 1, 1.5], floor=0.5) == [0, 0, 1]


def test_the_worst_come_first_and_those_without_a_mask_before_them():
    entries = [Entry("good", [row(0.9)]), Entry("none", error="NII_CRC: damaged"), Entry("bad", [row(0.2)])]
    assert [case["id"] for case in flag_cases(entries)] == ["none", "bad", "good"]


def test_a_case_without_a_mask_has_failed_and_says_why():
    case = flag_cases([Entry("a", error="NII_CRC: damaged")])[0]
    assert case["flags"] == ["failed"] and case["reasons"] == ["NII_CRC: damaged"]


def test_a_missed_structure_is_a_failure():
    case = flag_cases([Entry("a", [row(0.9), row(0.0, "lesion", "missed", "2", 0.0)])])[0]
    assert case["flags"] == ["failed"] and case["reasons"] == ["lesion: missed, the reference has it"]


def test_a_missed_structure_is_a_failure_whatever_was_measured():
    case = flag_cases([Entry("a", [{"label": "1", "name": "organ", "state": "missed", "nsd": 0.0}])])[0]
    assert case["flags"] == ["failed", "empty"] and case["reasons"] == ["organ: missed, the reference has it"]


@pytest.mark.parametrize("metric", ["dice", "iou"])
def test_two_masks_that_do_not_touch_are_a_failure_and_nothing_is_missed(metric):
    case = flag_cases([Entry("a", [{"label": "1", "name": "organ", "state": "present", metric: 0.0}])])[0]
    assert case["flags"] == ["failed"] and case["reasons"] == ["organ: no overlap with the reference"]


def test_an_invented_structure_has_a_flag_of_its_own():
    case = flag_cases([Entry("a", [row(0.0, state="spurious", truth=0.0)])])[0]
    assert case["flags"] == ["invented"] and case["reasons"] == [
        "organ: found, the reference does not have it"
    ]


def test_an_empty_mask_is_flagged():
    case = flag_cases([Entry("a", volumes_ml={"organ": 0.0})])[0]
    assert case["flags"] == ["empty"] and case["reasons"] == ["the mask is empty"]


def test_a_low_dice_among_many_is_an_outlier():
    case = find(flag_cases([*usual(), Entry("far", [row(0.5)])]), "far")
    assert case["flags"] == ["outlier"]
    assert case["reasons"] == ["organ: Dice 0.50, 20.2 robust SD below the median case"]


def test_a_high_dice_is_none():
    assert find(flag_cases([*usual(), Entry("best", [row(1.0)])]), "best")["flags"] == []


def test_few_cases_have_no_outlier():
    assert find(flag_cases([*usual(4), Entry("far", [row(0.5)])]), "far")["flags"] == []


def test_a_volume_is_compared_with_its_reference():
    large = Entry("large", [row(0.9, found=30.0, truth=30.0)])
    wrong = Entry("wrong", [row(0.9, found=20.0)])
    cases = flag_cases([*usual(), large, wrong])
    assert find(cases, "large")["flags"] == []
    assert find(cases, "wrong")["reasons"] == ["organ: volume 13.9 robust SD above the median case"]


def test_a_volume_without_a_reference_is_compared_with_the_others():
    entries = [Entry(f"usual-{place}", volumes_ml={"organ": 10 + place / 10}) for place in range(8)]
    case = find(flag_cases([*entries, Entry("far", volumes_ml={"organ": 2.0})]), "far")
    assert case["flags"] == ["outlier"]


def livers(n, **volumes_ml):
    return [Entry(f"usual-{place}", volumes_ml={"liver": 1500 + place, **volumes_ml}) for place in range(n)]


def test_a_structure_that_all_others_have_is_missing_without_a_reference():
    for gone in ({"liver": 0.0, "spleen": 200.0}, {"spleen": 200.0}):  # not named: not found
        case = find(flag_cases([*livers(10), Entry("far", volumes_ml=gone)]), "far")
        assert case["flags"] == ["outlier"]
        assert case["reasons"] == ["liver: not found, 10 of 10 other cases have it"]


def test_pixels_of_a_structure_are_missing_where_nothing_has_a_volume():
    entries = [Entry(f"usual-{place}", found=["nucleus", "cell"]) for place in range(9)]
    cases = flag_cases([*entries, Entry("far", found=["cell"])])
    assert find(cases, "far")["reasons"] == ["nucleus: not found, 9 of 9 other cases have it"]
    assert not any(case["flags"] for case in cases if case["id"] != "far")


def test_a_structure_that_one_in_five_lacks_is_missing_nowhere():
    entries = [*livers(8), Entry("one", volumes_ml={"liver": 0, "spleen": 1}), Entry("two", found=["spleen"])]
    assert not any(case["flags"] for case in flag_cases(entries))


def test_nothing_is_missing_where_a_reference_says_so_or_where_there_is_no_mask():
    told = Entry("told", [row(None, state="both_empty", found=0.0, truth=0.0), row(0.9, "b")])
    cases = flag_cases([*livers(10), told, Entry("failed", error="NII_CRC: damaged"), Entry("unknown")])
    assert [case["flags"] for case in cases if case["flags"]] == [["failed"]]


def test_of_an_empty_mask_it_is_not_said_what_it_lacks():
    case = find(flag_cases([*livers(10), Entry("far", volumes_ml={"liver": 0.0})]), "far")
    assert case["flags"] == ["empty"] and case["reasons"] == ["the mask is empty"]


def test_of_few_cases_nothing_is_missing():
    assert find(flag_cases([*livers(4), Entry("far", volumes_ml={"liver": 0, "b": 1})]), "far")["flags"] == []


def test_unlike_the_training_is_told_once():
    said = "the case is unlike the training cases (p = 0.010)"
    cases = flag_cases([Entry("a", p=0.01), Entry("b", p=0.01, reasons=[said]), Entry("c", p=0.5)])
    assert [case["flags"] for case in cases] == [["unlike"], ["unlike"], []]
    assert [case["reasons"] for case in cases] == [[said], [said], []]


def test_without_scores_flags_and_probability_decide():
    entries = [
        Entry("a", p=0.5),
        Entry("b", p=0.04),
        Entry("c", p=0.2),
        Entry("d", volumes_ml={"organ": 0.0}),
    ]
    assert [case["id"] for case in flag_cases(entries)] == ["d", "b", "c", "a"]


def test_regions_do_not_count_twice():
    entry = Entry("a", [row(0.4), row(0.8, "all", label="region")])
    assert entry.score == 0.4


def test_only_regions_count_where_there_is_nothing_else():
    assert Entry("a", [row(0.8, "all", label="region"), row(None, "b", label="region")]).score == 0.8
