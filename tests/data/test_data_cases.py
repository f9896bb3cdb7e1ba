from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import ConfigError, DataError
from medseg.core.files import FORMULA, write_csv
from medseg.data.cases import Case, assign_groups, confine, make_id, pseudonymize, require_unique


@given(st.text())
def test_an_id_is_always_a_plain_visible_file_name(text):
    name = make_id(text)
    assert name
    assert name[0] not in (".", *FORMULA)
    assert not set(name) & set("/\\: \n\t\0'\"*?")
    assert Path("folder", name).name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("patient-01.v2", "patient-01.v2"),
        ("a b/c", "a_b_c"),
        ("..", "case"),
        ("../../etc", "_.._etc"),
        (".hidden", "hidden"),
        ("--rm", "rm"),
        ("+case", "case"),
        ("a+b", "a+b"),
        ("", "case"),
    ],
)
def test_ids_of_unsafe_names(text, name):
    assert make_id(text) == name


def test_a_table_holds_every_id_as_it_is(tmp_path):
    names = [make_id("".join(text)) for n in range(4) for text in product("+-=@.'a\t\r", repeat=n)]
    write_csv(tmp_path / "ids.csv", [{"id": name} for name in names])
    assert (tmp_path / "ids.csv").read_text().splitlines() == ["id", *names]


def test_no_case_can_take_the_name_of_the_report():
    assert make_id("report") != "report"


def test_making_an_id_twice_changes_nothing():
    assert make_id(make_id("a b")) == make_id("a b")


@pytest.mark.parametrize("name", ["a.nii", "sub/a.nii", "./sub/../a.nii", "..a.nii"])
def test_a_path_below_the_root_is_accepted(tmp_path, name):
    assert confine(tmp_path, name).is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ["../a.nii", "sub/../../a.nii", "/etc/passwd", ".."])
@pytest.mark.parametrize("root", [Path("/data/cohort"), Path("cohort"), Path(), Path("..")])
def test_a_path_that_leaves_the_root_is_refused(root, name):
    with pytest.raises(DataError) as caught:
        confine(root, name)
    assert caught.value.code == "PATH_OUTSIDE_DATA"
    assert name not in caught.value.message


def test_a_folder_whose_name_only_begins_alike_is_outside(tmp_path):
    with pytest.raises(DataError):
        confine(tmp_path / "data", "../data2/a.nii")


def test_the_patient_is_the_first_group_of_the_pattern():
    cases = assign_groups([Case("p01_left", ()), Case("p01_right", ()), Case("p2_left", ())], r"^(p\d+)_")
    assert [case.patient for case in cases] == ["p01", "p01", "p2"]


def test_a_known_group_beats_the_pattern():
    assert assign_groups([Case("p01_left", (), group="known")], r"^(p\d+)_")[0].patient == "known"


def test_without_a_pattern_every_case_is_a_patient():
    assert assign_groups([Case("p01", ())], "")[0].patient == "p01"


def test_cases_come_back_in_order_of_id():
    assert [case.id for case in require_unique([Case("b", ()), Case("a", ())])] == ["a", "b"]


@pytest.mark.parametrize(("ids", "code"), [([], "NO_CASES"), (["a", "b", "a"], "DUPLICATE_ID")])
def test_no_case_and_one_id_twice_are_refused(ids, code):
    with pytest.raises(DataError) as caught:
        require_unique([Case(name, ()) for name in ids])
    assert caught.value.code == code


def test_cases_with_one_id_are_told_by_their_places():
    with pytest.raises(DataError, match=r"^cases 2 and 4 of 4 \(in the order"):
        require_unique([Case(name, ()) for name in ("c", "b", "a", "b")])


def test_a_case_that_a_pattern_misses_is_told_by_its_place():
    with pytest.raises(ConfigError, match="does not match 2 of 3 ids, such as that of case 2"):
        assign_groups([Case(name, ()) for name in ("p1", "q1", "q2")], r"^(p\d)")


def test_a_pseudonym_says_nothing_of_the_id_and_is_the_same_every_time(tmp_path):
    first = pseudonymize([Case("mueller", ())], tmp_path / "key")
    again = pseudonymize([Case("mueller", ())], tmp_path / "key")
    assert first == again
    assert first[0].id.startswith("case-")
    assert len(first[0].id) == 17
    assert "mueller" not in repr(first)


def test_another_key_gives_another_pseudonym(tmp_path):
    case = [Case("mueller", ())]
    assert pseudonymize(case, tmp_path / "a")[0].id != pseudonymize(case, tmp_path / "b")[0].id


def test_pseudonyms_keep_cases_of_a_patient_together(tmp_path):
    cases = [Case("x1", (), group="x"), Case("x2", (), group="x"), Case("y1", (), group="y")]
    groups = [case.patient for case in pseudonymize(cases, tmp_path / "key")]
    assert groups[0] == groups[1] != groups[2]


def test_the_key_is_readable_by_its_owner_only(tmp_path):
    pseudonymize([Case("a", ())], tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "key").read_bytes()) == 32


def test_a_case_cannot_take_the_name_of_another_ones_probabilities():
    assert make_id("a_prob") == "a_prob_"
