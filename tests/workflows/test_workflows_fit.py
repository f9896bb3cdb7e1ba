"""Plans by measured memory, the measurement injected; and once in earnest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg.config import Config
from medseg.config.layers import resolve
from medseg.config.pipelines import find_pipeline
from medseg.core.errors import ResourceError
from medseg.core.files import read_json
from medseg.data.fingerprint import Fingerprint, Intensity
from medseg.data.plan import SLOW_BATCH, Plan, make_plan
from medseg.data.scales import step_work
from medseg.train.probe import Cost
from medseg.workflows import fit
from medseg.workflows.fit import Trial, fit_plan
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder
from tests.tiny import document, medseg

SHAPE = (128, 96, 64)
BASE_MB, PER_WORK = 500.0, 1e-4
FREE = ("grid.patch=null", "grid.batch_size=null", "model.options.features=null")


class Scene:
    """fit_plan on a cohort of SHAPE, where a step takes BASE_MB and PER_WORK x its work."""

    def __init__(self, run: Path) -> None:
        self.run = RunFolder(run)
        self.trials: list[Plan] = []
        self.said: list[str] = []

    def measure(self, trial: Trial, cap_mb: float | None) -> Cost | None:
        self.trials.append(trial.plan)
        peak = BASE_MB + PER_WORK * step_work(trial.plan)
        return None if peak > trial.cap_mb else Cost(peak, 2.5)

    def fit(self, memory_gb: float, *settings: str, device: str = "cpu") -> Plan:
        config = configure(*settings)
        stats = Intensity(40.0, 20.0, -100.0, 300.0, 400.0)
        found = Fingerprint(9, SHAPE, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.9, 0.1), (stats,))

        def make(scale: Any) -> Plan:
            return make_plan(
                *(found, config.data, config.grid),
                device=device,
                memory_gb=memory_gb,
                rotate_degrees=None,
                scale=scale,
            )

        class Heard(Progress):
            def say(inner, text: str) -> None:  # noqa: N805
                self.said.append(text)

        return fit_plan(config, make, (device, memory_gb), SHAPE, self.run, progress=Heard())


def configure(*settings: str) -> Config:
    return resolve(find_pipeline("phantom_ct"), None, list(settings))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path)
    monkeypatch.setattr(fit, "measure", made.measure)
    return made


def test_the_plan_stays_within_its_share_of_the_cap_and_leaves_no_third_of_it(scene: Scene):
    plan = scene.fit(2.0, *FREE)
    peak = BASE_MB + PER_WORK * step_work(plan)
    assert 0.6 * fit.SHARE * 2048 < peak <= fit.SHARE * 2048
    assert len(scene.trials) == 3  # two for the line, one to verify


def test_the_reason_holds_the_measurement(scene: Scene):
    plan = scene.fit(2.0, *FREE)
    peak = round(BASE_MB + PER_WORK * step_work(plan))
    assert plan.reasons["batch_size"] == (
        f"grows once the patch cannot; 2 steps peaked at {peak} of 2048 MB, 2.5 s a step"
    )
    assert "largest whose training fits" in plan.reasons["patch"] and "grows last" in plan.reasons["features"]
    assert read_json(scene.run.root / "probe.json")["peak_mb"] == peak


def test_each_measurement_is_told(scene: Scene):
    scene.fit(2.0, *FREE)
    assert len(scene.said) == 3 and scene.said[0].startswith("memory of 2 x 32x32x32 voxels at 12 channels: ")


def test_the_same_command_again_measures_nothing_and_plans_the_same(scene: Scene):
    first = scene.fit(2.0, *FREE)
    scene.trials.clear()
    assert scene.fit(2.0, *FREE) == first and scene.trials == []


def test_another_cap_measures_again(scene: Scene):
    first = scene.fit(2.0, *FREE)
    assert step_work(scene.fit(4.0, *FREE)) > step_work(first)


def test_what_is_fixed_is_kept_and_only_verified(scene: Scene):
    plan = scene.fit(2.0)
    assert (plan.patch, plan.batch_size) == ((56, 48, 24), 2) and len(scene.trials) == 1
    assert plan.reasons["patch"] == "fixed by the pipeline"
    assert plan.reasons["batch_size"].startswith("fixed by the pipeline; 2 steps peaked at ")


def test_what_is_fixed_and_does_not_fit_is_refused_with_what_to_lower(scene: Scene):
    with pytest.raises(ResourceError) as caught:
        scene.fit(0.7)  # 573 of 717 MB may be planned for, and it takes 655
    assert caught.value.code == "MEMORY_PLAN" and "takes 655 MB; 80% of 717 MB" in caught.value.message
    assert "lower grid.patch or grid.batch_size" in caught.value.hint
    assert not (scene.run.root / "probe.json").exists()


def test_a_cap_below_the_imports_is_refused(scene: Scene):
    with pytest.raises(ResourceError, match="takes more; 80% of 307 MB") as caught:
        scene.fit(0.3, *FREE)
    assert "grid." not in caught.value.hint
    assert scene.said == ["memory of 2 x 32x32x32 voxels at 12 channels: over 307 MB"]


def test_one_sample_where_two_do_not_fit_is_said_to_be_slow(scene: Scene):
    plan = scene.fit(0.75, "grid.batch_size=null")  # 614 MB: one takes 577, two 655
    assert plan.batch_size == 1 and SLOW_BATCH in plan.reasons["batch_size"]
    assert "2 x 56x48x24 voxels at 12 channels took over 80% of it" in plan.reasons["batch_size"]


@pytest.mark.parametrize(
    "model",
    ["{name: unet, options: {features: [4, 8]}}", "{name: unet, options: {size: nano}}", "{name: fcn}"],
)
def test_a_network_of_its_own_width_grows_without(scene: Scene, model: str):
    plan = scene.fit(1e3, *FREE[:2], f"model={model}")
    assert plan.features[0] == 12 and plan.batch_size == 8 and plan.patch == SHAPE
    assert "grows last" not in plan.reasons["features"]


def test_on_a_gpu_the_resident_set_is_not_watched(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    caps = []

    def note(trial: Trial, cap_mb: float | None) -> Cost | None:
        caps.append(cap_mb)
        return scene.measure(trial, cap_mb)

    monkeypatch.setattr(fit, "measure", note)
    scene.fit(8.0, *FREE, device="cuda")
    assert set(caps) == {None}


def test_a_trial_is_two_real_steps_that_hold_a_batch(scene: Scene):
    settings = ("device=cpu", "threads=1", "model.options.features=[2, 4]", "train.amp='off'")
    settings += ("grid.patch=[8, 8, 8]", "grid.batch_size=2")
    plan = scene.fit(2.0, *settings)
    cost = Trial(configure(*settings), plan, (12, 10, 9), 2048)()
    assert cost.peak_mb > 100 and cost.step_s > 0


@pytest.mark.slow
def test_plan_measures_in_earnest_where_memory_is_given(tiny_cohort: Path, tmp_path: Path):
    arguments = ("phantom_ct", "--data", tiny_cohort, "--config", tiny_cohort / "tiny.yaml", "--json")
    result = medseg("plan", *arguments, "-o", tmp_path / "RUN", "--memory-gb", "4")
    reason = document(result)["plan"]["reasons"]["batch_size"]
    peak = read_json(tmp_path / "RUN" / "probe.json")["peak_mb"]
    assert (
        result.exit_code == 0 and f"peaked at {peak} of 4096 MB" in reason and 100 < peak < 4096 * fit.SHARE
    )
