"""Which cases come first, and why."""

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


def test_an_invented_structure_is_told_and_no_failure():
    case = flag_cases([Entry("a", [row(0.0, state="spurious", truth=0.0)])])[0]
    assert case["flags"] == [] and case["reasons"] == ["organ: found, the reference does not have it"]


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
