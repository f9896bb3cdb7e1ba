"""infer over a cohort: overlapping cases, errors in any stage, shards, modes."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medseg.core.errors import DataError, ResourceError
from medseg.core.settings import Builder
from medseg.data.cases import Case, make_id
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.inference.way import Way
from medseg.io import read_volume
from medseg.workflows import infer as command
from medseg.workflows import stages as module
from medseg.workflows.foresight import OTHERS, Foresight, count_windows
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.stages import CaseStages
from tests.tiny import IDS, document, hashes, medseg

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tiny_cohort: Path) -> Path:
    return tiny_cohort / "imagesTr"


@pytest.fixture(scope="module")
def segmenter(tiny_run: Path) -> Segmenter:
    model = load_model(tiny_run, CPU)
    return Segmenter(model, model.infer)


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more than one thread, with which the tests do not load the machine."""
    monkeypatch.setattr(command, "may_overlap", lambda segmenter: True)


def infer(source: Path, run: Path, out: Path, *more: object):
    return medseg("infer", source, "-m", run, "-o", out, "--threads", "1", "--device", "cpu", *more)


def masks(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in hashes(out).items() if not name.startswith("report")}


@pytest.fixture(scope="module")
def whole(images: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes, case after case."""
    out = tmp_path_factory.mktemp("whole")
    assert infer(images, tiny_run, out).exit_code == 0
    return out


def test_overlapping_cases_get_the_bytes_that_they_get_one_by_one(
    images: Path, tiny_run: Path, tmp_path: Path, whole: Path, overlapping: None
):
    result = infer(images, tiny_run, tmp_path, "--json")
    assert [case["id"] for case in document(result)["cases"]] == sorted(IDS)
    assert masks(tmp_path) == masks(whole)


def test_a_bad_scan_among_overlapping_ones_is_reported_and_the_others_are_done(
    images: Path, tiny_run: Path, tmp_path: Path, whole: Path, overlapping: None
):
    for name in IDS[:3]:
        (tmp_path / "in").mkdir(exist_ok=True)
        content = (images / f"{name}.nii.gz").read_bytes()
        (tmp_path / "in" / f"{name}.nii.gz").write_bytes(content[:-50] if name == IDS[1] else content)
    result = infer(tmp_path / "in", tiny_run, tmp_path / "OUT", "--json")
    tree = document(result)
    assert result.exit_code == 3 and [case["status"] for case in tree["cases"]] == [
        "done",
        "rejected",
        "done",
    ]
    assert all(case["seconds"] > 0 for case in tree["cases"])
    wanted = {f"{name}{end}" for name in (IDS[0], IDS[2]) for end in (".nii.gz", ".json")}
    assert masks(tmp_path / "OUT") == {name: masks(whole)[name] for name in wanted}


def test_a_full_disk_while_a_mask_is_written_ends_the_command(
    images: Path, tiny_run: Path, tmp_path: Path, overlapping: None, monkeypatch: pytest.MonkeyPatch
):
    def fill(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_mask", fill)
    result = infer(images, tiny_run, tmp_path)
    assert result.exit_code == 4 and "DISK_FULL" in result.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["_read", "_predict", "_write"])
def test_memory_that_runs_out_in_any_stage_fails_the_case(
    segmenter: Segmenter, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    def fill(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(CaseStages, stage, fill)
    stages = CaseStages(segmenter, [Case("a", (images / f"{IDS[0]}.nii.gz",))], tmp_path)
    result = stages.write(stages.predict(stages.read(0)))
    assert (result.status, result.code) == ("failed", "OUT_OF_MEMORY") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_failures", [1, 2, 3, 4, 5])
def test_where_memory_runs_out_a_case_is_done_in_a_slower_way(
    segmenter: Segmenter,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Path,
    n_failures: int,
):
    seen, stream = [], Segmenter.stream

    def fill(self: Segmenter, image: object, *, way: Way, **options: object):
        seen.append(way)
        if len(seen) <= n_failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stream(self, image, way=way, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "stream", fill)
    monkeypatch.setattr(segmenter, "way", Way(4))
    stages = CaseStages(segmenter, [scan(images, IDS[0])], tmp_path, save_probabilities=True)
    result = stages.write(stages.predict(stages.read(0)))
    slower = [Way(4), Way(2), Way(1), Way(1, in_file=True), Way(4, in_file=True)]
    assert seen == slower[: n_failures + 1]
    if n_failures == 5:
        assert (result.status, result.code) == ("failed", "OUT_OF_MEMORY") and not list(tmp_path.iterdir())
    else:
        assert [code for code, _ in result.warnings] == ["MEMORY_STEPPED_DOWN"]
        assert masks(tmp_path)[f"{IDS[0]}.nii.gz"] == masks(whole)[f"{IDS[0]}.nii.gz"]


def test_an_error_that_is_not_of_memory_is_not_tried_again(
    segmenter: Segmenter, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Segmenter, "stream", fail)
    stages = CaseStages(segmenter, [scan(images, IDS[0])], tmp_path)
    with pytest.raises(RuntimeError, match="a bug"):
        stages.predict(stages.read(0))


def test_another_runtime_error_is_a_bug_and_stays_one(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(CaseStages, "_read", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        CaseStages(segmenter, [Case("a", ())], tmp_path).read(0)


# ---- room for neighbours --------------------------------------------------------------------------


def scan(images: Path, name: str) -> Case:
    return Case(name, (images / f"{name}.nii.gz",))


def test_neighbours_are_a_part_of_the_forecast_where_they_fit(segmenter: Segmenter, images: Path):
    before, case, after = (scan(images, name) for name in IDS[:3])
    foresee = Foresight(segmenter, 64.0, overlaps=True)
    alone, shared = foresee(case), foresee(case, before, after)
    assert alone.parts_mb[OTHERS] == 0 < shared.parts_mb[OTHERS] and shared.peak_mb > alone.peak_mb
    assert shared.way == alone.way


def test_neighbours_that_do_not_fit_are_left_out(segmenter: Segmenter, images: Path):
    before, case, after = (scan(images, name) for name in IDS[:3])
    own = Foresight(segmenter, 64.0)(case)
    tight = Foresight(segmenter, 64.0, overlaps=True)
    tight._look(case), tight._look(before), tight._look(after)
    tight._cap_mb = own.peak_mb + 1e-3
    assert OTHERS not in tight(case, before, after).parts_mb


def test_without_a_limit_neighbours_take_half_of_the_free_memory_at_most(segmenter: Segmenter, images: Path):
    before, case, after = (scan(images, name) for name in IDS[:3])
    assert OTHERS in Foresight(segmenter, None, overlaps=True)(case, before, after).parts_mb
    tight = Foresight(segmenter, None, overlaps=True)
    tight._free_mb = 1e-6
    assert OTHERS not in tight(case, before, after).parts_mb


def free(monkeypatch: pytest.MonkeyPatch, gb: float) -> None:
    monkeypatch.setattr("medseg.workflows.foresight.find_memory", lambda: (64.0, gb))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_without_a_limit_no_case_takes_more_than_is_free(
    images: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
):
    free(monkeypatch, 1e-6)
    result = infer(images / f"{IDS[0]}.nii.gz", tiny_run, tmp_path / "OUT", *more)
    assert result.exit_code == 4 and "INFER_MEMORY" in result.stderr
    assert "this machine has room for" in result.stderr and "free memory" in result.stderr


@pytest.mark.parametrize("gb", [0.0, 64.0])  # not known, and plenty
def test_where_there_is_room_nothing_is_measured_and_the_way_is_the_fastest(
    segmenter: Segmenter, images: Path, monkeypatch: pytest.MonkeyPatch, gb: float
):
    free(monkeypatch, gb)
    monkeypatch.setattr("medseg.workflows.foresight.measure_windows", None)
    assert Foresight(segmenter, None)(scan(images, IDS[0])).way == segmenter.way


def test_where_a_generous_guess_does_not_fit_windows_are_measured(
    segmenter: Segmenter, images: Path, monkeypatch: pytest.MonkeyPatch
):
    limits = []

    def measure(segmenter: Segmenter, count: int, limit_mb: float | None) -> float:
        limits.append(limit_mb)
        return 1.0

    free(monkeypatch, 1.0)
    monkeypatch.setattr("medseg.workflows.foresight.measure_windows", measure)
    monkeypatch.setattr(segmenter, "window_mb_at_most", 1e9)
    found = Foresight(segmenter, None)(scan(images, IDS[0]))
    assert found.parts_mb["windows"] == 1 and limits == [pytest.approx(0.9 * 1024, abs=50)]


def test_a_neighbour_that_cannot_be_read_takes_no_memory(segmenter: Segmenter, images: Path, tmp_path: Path):
    (tmp_path / "torn.nii.gz").write_bytes(b"no image")
    case, torn = scan(images, IDS[0]), Case("torn", (tmp_path / "torn.nii.gz",))
    foresee = Foresight(segmenter, None, overlaps=True)
    assert foresee(case, torn, torn).parts_mb[OTHERS] == 0
    assert (foresee.count_windows(torn), foresee.count_windows(Case("none", ()))) == (1, 1)
    assert foresee.count_windows(case) == 8
    assert count_windows(segmenter.model, [case, torn, Case("none", ()), case]) == 16


def test_a_mirrored_model_sees_each_window_in_every_view(segmenter: Segmenter, images: Path):
    model = segmenter.model
    settings = model.infer.model_copy(update={"mirror": True})
    mirrored = replace(model, infer=settings, plan=replace(model.plan, mirror_axes=(0, 2)))
    assert count_windows(mirrored, [scan(images, IDS[0])]) == 4 * 8


def test_one_thread_or_a_cascade_leaves_nothing_to_overlap(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not command.may_overlap(segmenter)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert command.may_overlap(segmenter)


def test_reading_and_writing_share_a_thread_on_a_cpu_and_with_dicom(segmenter: Segmenter, images: Path):
    class Gpu:
        device = torch.device("cuda")

    assert command.count_lanes(segmenter, []) == 1
    assert command.count_lanes(Gpu(), [scan(images, IDS[0])]) == 2  # type: ignore[arg-type]
    assert command.count_lanes(Gpu(), [Case("a", (object(),))]) == 1  # type: ignore[arg-type]


# ---- refinement ------------------------------------------------------------------------------------


def test_a_case_that_would_take_too_long_to_refine_keeps_its_mask(
    segmenter: Segmenter, images: Path, tmp_path: Path, whole: Path
):
    model, crf = segmenter.model, Builder(name="crf", options={"max_pairs": 1})
    refining = Segmenter(model, model.infer.model_copy(update={"refine": (crf,)}))
    with pytest.raises(DataError, match="pairs"):
        refining.segment(*model.preprocess(read_volume(images / f"{IDS[0]}.nii.gz")))
    stages = CaseStages(refining, [scan(images, IDS[0])], tmp_path)
    result = stages.write(stages.predict(stages.read(0)))
    ((code, message),) = result.warnings
    assert (result.status, code) == ("done", "CRF_TOO_LARGE") and message.endswith("is not refined")
    sidecar = json.loads((tmp_path / f"{IDS[0]}.json").read_text())
    assert [row["code"] for row in sidecar["warnings"]] == [code]
    assert (tmp_path / f"{IDS[0]}.nii.gz").read_bytes() == (whole / f"{IDS[0]}.nii.gz").read_bytes()


# ---- shards ---------------------------------------------------------------------------------------


def test_shards_make_together_what_one_process_makes(
    images: Path, tiny_run: Path, tmp_path: Path, whole: Path
):
    # What another living process (here: our parent) is writing stays.
    theirs = tmp_path / f".part-{module_host()}-{os.getppid()}-0-a.nii.gz"
    theirs.write_bytes(b"half")
    for number in (1, 2):
        assert infer(images, tiny_run, tmp_path, "--shard", f"{number}/2").exit_code == 0
    assert theirs.read_bytes() == b"half"
    theirs.unlink()
    reports = [json.loads((tmp_path / f"report_{number}_of_2.json").read_text()) for number in (1, 2)]
    assert [[case["id"] for case in report["cases"]] for report in reports] == [
        sorted(IDS)[0::2],
        sorted(IDS)[1::2],
    ]
    assert masks(tmp_path) == masks(whole)


def module_host() -> str:
    from medseg.core.files import HOST

    return HOST


def test_a_shard_beyond_the_cases_has_nothing_to_do(images: Path, tiny_run: Path, tmp_path: Path):
    result = infer(images / f"{IDS[0]}.nii.gz", tiny_run, tmp_path, "--shard", "2/2", "--json")
    assert result.exit_code == 0 and document(result)["cases"] == []


def test_a_wrong_shard_is_a_usage_error(images: Path, tiny_run: Path, tmp_path: Path):
    result = infer(images, tiny_run, tmp_path / "OUT", "--shard", "3/2")
    assert result.exit_code == 2 and "SHARD_INVALID" in result.stderr and not (tmp_path / "OUT").exists()


def test_no_case_is_named_like_a_report():
    assert [make_id(name) for name in ("report", "report_1_of_2", "report_1")] == [
        "report_",
        "report_1_of_2_",
        "report_1",
    ]


# ---- modes ----------------------------------------------------------------------------------------


def settings(out: Path) -> dict[str, object]:
    return dict(json.loads((out / f"{IDS[0]}.json").read_text())["settings"])


def test_a_fast_mask_is_another_output_than_an_exact_one(images: Path, tiny_run: Path, tmp_path: Path):
    source, statuses = images / f"{IDS[0]}.nii.gz", []
    for mode in ("exact", "fast", "fast", "accurate", "exact"):
        result = infer(source, tiny_run, tmp_path, "--mode", mode, "--json")
        statuses.append(document(result)["cases"][0]["status"])
        if mode == "fast":
            assert settings(tmp_path)["overlap"] == 0.25 and settings(tmp_path)["where"] == "content"
    # The tiny model's own settings are those of `accurate` but for mirroring, which its plan forbids.
    assert statuses == ["done", "done", "skipped", "done", "skipped"]
    assert settings(tmp_path)["where"] == "everywhere" and settings(tmp_path)["networks"] == 1


def test_an_unknown_mode_is_refused(images: Path, tiny_run: Path, tmp_path: Path):
    result = infer(images, tiny_run, tmp_path / "OUT", "--mode", "quick", "--dry-run")
    assert result.exit_code == 2 and "UNKNOWN_NAME" in result.stderr


def test_a_resource_error_of_the_forecast_comes_at_its_case(segmenter: Segmenter, images: Path):
    foresee = Foresight(segmenter, 0.001)
    assert foresee.count_windows(scan(images, IDS[0])) == 1
    with pytest.raises(ResourceError, match="are needed"):
        foresee(scan(images, IDS[0]))


def test_a_plan_is_written_while_the_folder_is_held(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held: list[bool] = []

    def refuse(config: object, cohort: object, run: RunFolder, **_: object) -> None:
        held.append((run.root / ".lock").exists())
        raise ResourceError("enough", code="RUN_LOCKED")

    monkeypatch.setattr("medseg.workflows.preprocess.plan_run", refuse)
    settings = ("--config", tiny_cohort / "tiny.yaml", "-o", tmp_path / "RUN")
    assert medseg("plan", "phantom_ct", "--data", tiny_cohort, *settings).exit_code == 4
    assert held == [True]
