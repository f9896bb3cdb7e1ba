"""What each verb prints, and what it leaves alone."""

import json
from pathlib import Path

import pytest

from tests.tiny import document, hashes, medseg


def small(verb: str, cohort: Path, out: Path, *more: object):
    return medseg(verb, "phantom_ct", "--data", cohort, "--config", cohort / "tiny.yaml", "-o", out, *more)


@pytest.mark.parametrize("verb", ["check", "plan", "preprocess"])
def test_stdout_equals_the_stored_report(verb: str, tiny_cohort: Path, tmp_path: Path):
    result = small(verb, tiny_cohort, tmp_path / "RUN", "--json")
    assert result.exit_code == 0, result.stderr
    stored = tmp_path / "RUN" / ("check/report.json" if verb == "check" else "report.json")
    assert document(result) == json.loads(stored.read_text())
    assert document(result)["command"] == verb


def test_plan_prints_every_decision_with_its_reason(tiny_cohort: Path, tmp_path: Path):
    result = small("plan", tiny_cohort, tmp_path / "RUN", "--json")
    plan = document(result)["plan"]
    assert plan == json.loads((tmp_path / "RUN/plan.json").read_text())
    assert "patch = (16, 16, 8): fixed by the pipeline" in result.stderr
    assert all(f"{name} = " in result.stderr for name in plan["reasons"])
    assert not (tmp_path / "RUN/store").exists()


@pytest.mark.parametrize("verb", ["preprocess", "run"])
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(verb: str, tiny_cohort: Path, tmp_path: Path):
    before = hashes(tiny_cohort)
    result = small(verb, tiny_cohort, tmp_path / "RUN", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert document(result)["dry_run"] == {"layout": "msd", "cases": 6, "pipeline": "phantom_ct"}
    assert not (tmp_path / "RUN").exists() and hashes(tiny_cohort) == before


def test_pseudonyms_leave_no_id_in_the_run(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    result = small("preprocess", tiny_cohort, tmp_path / "RUN", "--pseudonymize", "--json")
    assert result.exit_code == 0 and all(c["id"].startswith("case-") for c in document(result)["cases"])
    assert "subject" not in result.stdout + result.stderr
    for path in (tmp_path / "RUN").rglob("*"):
        assert "subject" not in path.name
        assert path.is_dir() or b"subject" not in path.read_bytes()


def test_missing_data_is_a_usage_error(tiny_cohort: Path, tmp_path: Path):
    result = medseg("check", "phantom_ct", "--data", tmp_path / "nowhere", "-o", tmp_path / "RUN")
    assert result.exit_code == 2 and "DATA_MISSING" in result.stderr


def test_an_unknown_pipeline_is_refused_with_a_suggestion(tmp_path: Path):
    result = medseg("check", "phantom_tc", "--data", tmp_path, "-o", tmp_path / "RUN")
    assert result.exit_code == 2 and "did you mean `phantom_ct`?" in result.stderr


def test_a_pipeline_may_be_a_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from medseg.config import Channel, Config, Data\n"
        "CONFIG = Config(name='mine', summary='s', data=Data(channels={'ct': Channel()}, labels={1: 'a'}))\n"
    )
    result = medseg("config", "show", tmp_path / "mine.py")
    assert result.exit_code == 0 and result.stdout.startswith("pipeline: mine\n")


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("pipelines", "phantom_ct"),
        ("models", "strided_unet"),
        ("losses", "dice_focal"),
        ("metrics", "dice"),
        ("formats", "nifti"),
        ("refine", "crf"),
        ("postprocess", "keep_largest"),
    ],
)
def test_list_names_the_entries(what: str, name: str):
    result = medseg("list", what)
    assert result.exit_code == 0 and name in result.stdout.split()


def test_an_unknown_list_is_refused():
    result = medseg("list", "modells")
    assert result.exit_code == 2 and "did you mean `models`?" in result.stderr


def test_config_show_prints_what_a_run_would_store(tiny_run: Path, tiny_cohort: Path):
    result = medseg("config", "show", "phantom_ct", "--config", tiny_cohort / "tiny.yaml")
    assert result.stdout == (tiny_run / "config.yaml").read_text()


def test_set_wins_over_the_file_and_the_file_over_the_pipeline(tiny_cohort: Path):
    result = medseg(
        *("config", "show", "phantom_ct", "--config", tiny_cohort / "tiny.yaml"),
        *("--set", "train.epochs=7", "--set", "train.learning_rate=1e-4"),
    )
    assert "epochs: 7" in result.stdout and "learning_rate: 0.0001" in result.stdout
    assert "iterations_per_epoch: 2" in result.stdout


def test_phantoms_can_be_read_back_as_a_cohort(tmp_path: Path):
    assert medseg("phantom", "-o", tmp_path / "P", "--cases", "2", "--seed", "5", "-q").exit_code == 0
    found = {str(path.relative_to(tmp_path / "P")) for path in (tmp_path / "P").rglob("*.nii.gz")}
    assert found == {f"{part}Tr/phantom_00{n}.nii.gz" for part in ("images", "labels") for n in (0, 1)}
    again = tmp_path / "Q"
    medseg("phantom", "-o", again, "--cases", "2", "--seed", "5", "-q")
    assert hashes(again) == hashes(tmp_path / "P")


@pytest.mark.parametrize("verb", ["check", "phantom"])
def test_an_output_that_is_a_file_is_a_usage_error(verb: str, tiny_cohort: Path, tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    if verb == "phantom":
        result = medseg("phantom", "-o", tmp_path / "file")
    else:
        result = small(verb, tiny_cohort, tmp_path / "file")
    assert result.exit_code == 2 and "OUT_IS_FILE" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("option", [("--threads", "0"), ("--threads", "-3")])
def test_impossible_numbers_are_usage_errors(option: tuple[str, str], tmp_path: Path):
    assert medseg("infer", tmp_path, "-m", tmp_path, "-o", tmp_path / "OUT", *option).exit_code == 2


def test_an_unknown_phantom_is_refused(tmp_path: Path):
    result = medseg("phantom", "-o", tmp_path / "P", "--kind", "xrey")
    assert result.exit_code == 2 and "did you mean `xray`?" in result.stderr


def test_ui_serves_on_the_port_asked_for_and_on_loopback(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []
    monkeypatch.setattr("medseg.tracking.ui.serve", lambda *args, **kwargs: asked.append((args, kwargs)))
    assert medseg("ui", "--port", "5123").exit_code == 0
    assert asked == [((5123, "127.0.0.1"), {"names": (), "is_open": False})]


def test_ui_beyond_loopback_is_a_wrong_request_until_a_second_flag_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = medseg("ui", "--host", "192.0.2.1")
    assert result.exit_code == 2 and result.stderr.startswith("UI_NOT_LOOPBACK")
    assert "--without-login" in result.stderr
