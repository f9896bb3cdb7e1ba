import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import ConfigError
from medseg.data.splits import Splits, split_cohort
from tests.builders import make_record


def make_cohort(patients):
    """{patient: number of cases} -> records."""
    return [make_record(f"{p}_{n}", patient=p) for p, count in patients.items() for n in range(count)]


patients = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4), st.integers(1, 3), min_size=6, max_size=30
)


@given(patients, st.integers(2, 6), st.integers(0, 5), st.sampled_from([0.0, 0.2]))
def test_every_case_is_held_out_exactly_once_or_tested(cohort, folds, seed, test_share):
    records = make_cohort(cohort)
    n_test = max(1, round(test_share * len(cohort))) if test_share else 0
    if len(cohort) - n_test < folds:
        return
    splits = split_cohort(records, folds=folds, seed=seed, test_share=test_share)
    dealt = [*splits.test, *(case for fold in splits.folds for case in fold)]
    assert sorted(dealt) == sorted(record.id for record in records)


@given(patients, st.integers(2, 6), st.integers(0, 5))
def test_no_patient_is_on_two_sides(cohort, folds, seed):
    splits = split_cohort(make_cohort(cohort), folds=folds, seed=seed)
    for fold in range(folds):
        held_out = {case.rpartition("_")[0] for case in splits.validation(fold)}
        assert not held_out & {case.rpartition("_")[0] for case in splits.training(fold)}


@given(patients, st.integers(2, 6))
def test_folds_hold_equally_many_patients(cohort, folds):
    splits = split_cohort(make_cohort(dict.fromkeys(cohort, 1)), folds=folds, seed=0)
    sizes = [len(fold) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1


def test_a_rare_label_reaches_every_fold():
    records = [make_record(f"r{n}", voxels=(900, 37 * n % 83, 5 if n % 4 == 0 else 0)) for n in range(20)]
    splits = split_cohort(records, folds=5, seed=3)
    rare = {record.id for record in records if record.voxels[2]}
    assert [len(rare & set(fold)) for fold in splits.folds] == [1] * 5


def test_small_and_large_organs_reach_every_fold():
    records = [make_record(f"r{n:02}", voxels=(0, n + 1, 1)) for n in range(20)]
    size = {record.id: record.voxels[1] for record in records}
    means = [sum(size[case] for case in fold) / 4 for fold in split_cohort(records, folds=5, seed=3).folds]
    assert max(means) - min(means) <= 4  # dealt in blocks of five neighbours; at random it could be 16


def test_size_is_a_volume_not_a_voxel_count():
    # Fine and coarse scans of equally large organs: by count, each half would be a stratum of its own.
    records = [
        make_record(
            f"r{n}", voxels=(0, (n + 1) * (8 if n % 2 else 1), 0), voxel_volume_mm3=1 / (8 if n % 2 else 1)
        )
        for n in range(8)
    ]
    splits = split_cohort(records, folds=2, seed=0)
    blocks = [{f"r{n}", f"r{n + 1}"} for n in range(0, 8, 2)]
    assert all(len(block & set(splits.folds[0])) == 1 for block in blocks)


def test_the_same_seed_deals_the_same_whatever_the_order():
    records = make_cohort(dict.fromkeys("abcdefghij", 2))
    assert split_cohort(records, folds=3, seed=7) == split_cohort(records[::-1], folds=3, seed=7)


def test_another_seed_deals_otherwise():
    records = make_cohort(dict.fromkeys("abcdefghij", 1))
    assert split_cohort(records, folds=5, seed=0) != split_cohort(records, folds=5, seed=1)


def test_named_test_cases_take_their_whole_patient_along():
    records = make_cohort({"a": 2, "b": 1, "c": 1, "d": 1})
    splits = split_cohort(records, folds=2, seed=0, test_ids=["a_1"])
    assert splits.test == ("a_0", "a_1")


def test_named_test_cases_go_before_a_share():
    records = make_cohort(dict.fromkeys("abcdef", 1))
    assert split_cohort(records, folds=2, seed=0, test_share=0.5, test_ids=["a_0"]).test == ("a_0",)


def test_a_test_share_is_a_share_of_patients():
    assert (
        len(split_cohort(make_cohort(dict.fromkeys("abcdefghij", 1)), folds=2, seed=0, test_share=0.3).test)
        == 3
    )


def test_the_test_set_holds_small_and_large():
    records = [make_record(f"r{n}", voxels=(0, n + 1, 0)) for n in range(10)]
    assert split_cohort(records, folds=2, seed=0, test_share=0.3).test == ("r0", "r4", "r9")


def test_the_test_set_does_not_depend_on_the_seed():
    records = make_cohort(dict.fromkeys("abcdefghij", 1))
    tests = {split_cohort(records, folds=2, seed=seed, test_share=0.3).test for seed in range(5)}
    assert len(tests) == 1


def test_unknown_test_cases_are_told_by_their_places():
    with pytest.raises(ConfigError, match=r"^1 of 2 split.test_ids are not in the cohort \(number 2\)$"):
        split_cohort(make_cohort({"a": 1, "b": 1}), folds=2, seed=0, test_ids=["a_0", "nobody"])


def test_too_few_patients_say_how_many_folds_are_possible():
    with pytest.raises(ConfigError) as caught:
        split_cohort(make_cohort({"a": 5, "b": 5, "c": 1}), folds=5, seed=0)
    assert caught.value.code == "TOO_FEW_PATIENTS"
    assert "at most 3" in caught.value.hint


def test_a_fold_trains_on_all_the_others():
    splits = Splits(("t",), (("a",), ("c", "d"), ("b",)))
    assert splits.training(1) == ("a", "b")
    assert splits.validation(1) == ("c", "d")
