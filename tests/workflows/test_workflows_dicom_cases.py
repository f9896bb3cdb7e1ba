"""Every DICOM case ends as it must, and no wrong voxel is ever written: what comes out lies on the ramp."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer.testing

from tests.dicom_cases import CASES, build, of_verdict
from tests.ramp_checks import read, why_not, why_not_repaired
from tests.tiny import document, medseg

MOST = 9  # series of a folder, volumes of a series


@dataclass(frozen=True)
class Outcome:
    """What `convert` did with a folder: its document, its files, the differences of what it wrote."""

    exit_code: int
    codes: tuple[str, ...] = ()
    message: str = ""
    warnings: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    wrong: tuple[str, ...] = ()
    found: tuple[int, ...] = ()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what is written; the site's key for pseudonyms lies there too."""
    place = tmp_path_factory.mktemp("dicom_cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_HOME", str(place / "home"))
        # Building the command line anew takes as long as most conversions.
        patch.setattr(typer.testing, "_get_command", cache(typer.testing._get_command))
        yield place


@cache
def convert(root: Path, name: str, *flags: str, repaired: bool = False) -> Outcome:
    """Convert a case once and compare what was written with what was meant."""
    folder, truths = build(name)
    out = root / name / "_".join(("out", *flags))
    result = medseg("convert", folder, "-o", out, "--json", *flags)
    refusals = re.findall(r"^([A-Z0-9_]+) [^:]+: (.+)$", result.stderr, re.MULTILINE)
    codes, message = tuple(code for code, _ in refusals), " ".join(text for _, text in refusals)
    if result.exit_code not in (0, 3):
        return Outcome(result.exit_code, codes, message)
    warnings = frozenset(one["code"] for case in document(result)["cases"] for one in case["warnings"])
    files = frozenset(path.name for path in out.iterdir()) if out.exists() else frozenset()
    compare = why_not_repaired if repaired else why_not
    wrong, found = [], []
    for written in sorted(file for file in files if file.endswith(".nii.gz")):
        reasons = [compare(*read(out / written), truth) for truth in truths]
        found += [number for number, reason in enumerate(reasons) if not reason][:1]
        wrong += [] if "" in reasons else ["; ".join(reasons) or "nothing was to come"]
    return Outcome(result.exit_code, codes, message, warnings, files, tuple(wrong), tuple(found))


def choices(root: Path, name: str) -> Iterator[Outcome]:
    """Choose every volume of a folder by its numbers, one after the other."""
    for series in range(1, MOST + 1):
        outcome = convert(root, name, "--series", str(series))
        if outcome.exit_code == 2:
            return
        if outcome.codes != ("SERIES_AMBIGUOUS",):
            yield outcome
            continue
        for volume in range(1, MOST + 1):
            outcome = convert(root, name, "--series", str(series), "--volume", str(volume))
            if outcome.exit_code == 2:
                break
            yield outcome


def flags_of(name: str) -> tuple[str, ...]:
    return () if CASES[name].verdict == "repair" else CASES[name].flags


@pytest.mark.parametrize("name", of_verdict("accept", "warn"))
def test_volume_is_the_one_that_was_meant(root: Path, name: str) -> None:
    outcome = convert(root, name, *flags_of(name))
    assert (outcome.exit_code, outcome.codes, outcome.wrong) == (0, (), ())
    assert sorted(outcome.found) == list(range(len(build(name)[1])))


@pytest.mark.parametrize("name", of_verdict("accept"))
def test_nothing_is_said_of_a_good_scan(root: Path, name: str) -> None:
    assert convert(root, name, *flags_of(name)).warnings == frozenset()


@pytest.mark.parametrize("name", of_verdict("warn"))
def test_warning_is_given(root: Path, name: str) -> None:
    assert convert(root, name, *flags_of(name)).warnings == CASES[name].codes


@pytest.mark.parametrize("name", of_verdict("reject", "repair", "choose"))
def test_scan_is_refused_with_its_code_and_numbers_and_leaves_no_file(root: Path, name: str) -> None:
    outcome = convert(root, name, *flags_of(name))
    assert outcome.exit_code == 3 and outcome.files <= {"report.json"}
    assert len(outcome.codes) == 1 and set(outcome.codes) <= CASES[name].codes, outcome.codes
    assert all(re.search(number, outcome.message) for number in CASES[name].says), outcome.message


@pytest.mark.parametrize("name", of_verdict("choose"))
def test_every_volume_can_be_chosen_by_its_number(root: Path, name: str) -> None:
    outcomes = list(choices(root, name))
    assert [outcome.wrong for outcome in outcomes] == [()] * len(outcomes)
    assert sorted(number for outcome in outcomes for number in outcome.found) == list(
        range(len(build(name)[1]))
    )


@pytest.mark.parametrize("name", of_verdict("reject"))
def test_no_volume_that_can_be_chosen_is_a_mixture(root: Path, name: str) -> None:
    if convert(root, name, *flags_of(name)).codes == ("SERIES_AMBIGUOUS",):
        reasons = [reason for outcome in choices(root, name) for reason in outcome.wrong]
        assert [reason for reason in reasons if all("off the" in one for one in reason.split("; "))] == []


@pytest.mark.parametrize("name", of_verdict("choose"))
def test_message_lists_as_many_volumes_as_there_are(root: Path, name: str) -> None:
    listed = re.findall(r"\[\d+(?: volume \d+)?\]", convert(root, name).message)
    assert len(listed) == (CASES[name].listed or len(build(name)[1]))


@pytest.mark.parametrize("name", of_verdict("repair"))
def test_repair_on_request_puts_every_voxel_on_the_ramp(root: Path, name: str) -> None:
    outcome = convert(root, name, *CASES[name].flags, repaired=True)
    assert (outcome.exit_code, outcome.codes, outcome.wrong, outcome.found) == (0, (), (), (0,))


@pytest.mark.parametrize("name", [name for name in of_verdict("repair") if CASES[name].repaired])
def test_repair_is_said_in_the_sidecar(root: Path, name: str) -> None:
    outcome = convert(root, name, *CASES[name].flags, repaired=True)
    out = root / name / "_".join(("out", *CASES[name].flags))
    (sidecar,) = (file for file in outcome.files if file.endswith(".json") and file != "report.json")
    assert CASES[name].repaired in (out / sidecar).read_text()


IN_PIXELS = "headers do not tell"
NOT_INSPECTED = {
    "dirty_high_bits": IN_PIXELS,
    "dirty_high_bits_signed": IN_PIXELS,
    "compressed_file_truncated": IN_PIXELS,
    "rle_file_truncated": IN_PIXELS,
    "pixel_data_twice_as_long": IN_PIXELS,
    "other_image_format_beside": "both kinds are listed",
    "tilt_and_uneven_steps_and_leave_for_one": "it takes no options",
}
BESIDE = {"DICOM_NOT_IMAGE", "DICOM_LOCALIZER", "DICOM_COLOUR"}


def is_inspected(name: str) -> bool:
    case = CASES[name]
    if name in NOT_INSPECTED or "--suv" in case.flags:
        return False
    return case.verdict in {"repair", "reject"} or not case.flags


@pytest.mark.parametrize("name", [name for name in CASES if is_inspected(name)])
def test_inspect_says_the_same_as_convert(root: Path, name: str) -> None:
    case = CASES[name]
    result = medseg("inspect", build(name)[0], "--json")
    series = document(result).get("series", [])
    images = [one for one in series if one["code"] not in BESIDE] or series
    verdicts = [one["verdict"] for one in images]
    codes = {one["code"] for one in series} | set(re.findall("^[A-Z0-9_]+", result.stderr, re.MULTILINE))
    if case.verdict == "choose":
        assert verdicts == ["choose"] or len(verdicts) == (case.listed or len(build(name)[1]))
    elif case.verdict == "reject":
        assert set(verdicts) <= {"reject", "choose"} and codes & case.codes
    else:
        assert set(verdicts) == {case.verdict} and codes >= case.codes


def test_no_voxel_is_silently_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Count over the whole table: a folder read wrongly and without a word is the one thing never done."""
    ends: Counter[str] = Counter()
    silent = []
    for name, case in CASES.items():
        outcome = convert(root, name, *flags_of(name))
        ends[case.verdict] += 1
        silent += [name] * bool(outcome.wrong)
    with capsys.disabled():
        print(f"\n{len(CASES)} DICOM cases, {dict(ends)}, silently wrong: {len(silent)}")
    assert silent == []
