"""Choose patch, batch and width by training two steps of each candidate and reading the memory they took.

The largest plan is taken that stays within four fifths of the cap; the rest is for what two steps do not
show. What was chosen stands in RUN/probe.json, since no second measurement gives the same number: the same
command again does not measure again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from medseg.config import Config
from medseg.core.errors import ResourceError
from medseg.core.files import read_json, sha256_of, write_json
from medseg.core.select import select
from medseg.data.blank import BlankCase
from medseg.data.plan import SLOW_BATCH, Plan, Scale
from medseg.data.scales import list_plans, step_work
from medseg.inference.network import choose_device
from medseg.models import MODELS
from medseg.train.loop import train
from medseg.train.precision import choose_precision, use_fast_kernels
from medseg.train.probe import Cost, climb, limit_device, measure, peak_mb
from medseg.train.state import start_state
from medseg.workflows.fold import Fold, make_job, make_network, name_ends
from medseg.workflows.machine import count_cores
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder

STEPS = 2  # the second meets gradients, optimizer and averaged weights beside its activations
# Of the cap. Over more steps the heap fragments (20 steps: a fifth more than 2, imports aside), and MLflow's
# store comes on top (60 MB).
SHARE = 0.8
WIDTH_OPTIONS = ("features", "size")  # of a model: it does not take its channels from the plan
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Trial:
    """Two steps of the real training, on blank cases of the cohort's median shape.

    Everything is what `train` does: loader, augmentation, precision, loss, optimizer, averaged weights.
    """

    config: Config
    plan: Plan
    shape: Shape
    cap_mb: float

    def __call__(self) -> Cost:
        torch.set_num_threads(self.config.threads or count_cores())
        device = choose_device(self.config.device)
        limit_device(device, self.cap_mb)
        use_fast_kernels(device)
        # Nothing is to be learnt of blank cases: at this rate nothing diverges, either.
        recipe = {"epochs": 1, "iterations_per_epoch": STEPS, "learning_rate": 1e-6}
        settings = self.config.train.model_copy(update=recipe)
        config = self.config.model_copy(update={"train": settings})
        blank = BlankCase(self.shape, len(config.data.channels), len(config.data.labels))
        fold = Fold(0, self.plan, (blank,), ())
        network, _ = make_network(config, fold, device, None)
        job, _ = make_job(config, fold, device, (0, 1), 0)
        job = replace(job, dtype=choose_precision(config.train.amp, device))
        is_fp16 = job.dtype is torch.float16
        ends = name_ends(config)
        sizes = (len(ends.channels), len(ends.classes))
        state = start_state(network, settings, device, uses_scaler=is_fp16, ends=sizes)
        train(state, job)
        return Cost(peak_mb(device), state.history[-1]["time/epoch_s"] / STEPS)


def fit_plan(
    config: Config,
    make: Callable[[Scale | None], Plan],
    device: tuple[str, float],
    shape: Shape,
    run: RunFolder,
    *,
    progress: Progress,
) -> Plan:
    """Return the largest plan that trains within the memory, with the measurement as a reason.

    Args:
        config: The task; what its grid fixes stays.
        make: Makes the plan of a scale.
        device: "cpu" or "cuda", and its memory in GB.
        shape: Median shape of the cohort in the plan's voxels.
        run: Gets probe.json.
        progress: Told of each measurement.

    Raises:
        ResourceError: MEMORY_PLAN: not even the smallest plan fits.
    """
    name, memory_gb = device
    plans = list_plans(make, config.grid, name, is_width_free=takes_width(config))
    ladder = [plan.to_json() for plan in plans]
    key = sha256_of([config.model_dump(mode="json"), ladder, shape, memory_gb])
    path = run.root / "probe.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    if known.get("key") != key:
        known = {"key": key, **_choose(config, plans, device, shape, progress)}
        write_json(path, known)
    plan: Plan = plans[known["chosen"]]
    return replace(plan, reasons=_explain(config, plan, known, memory_gb * 1024))


def _choose(
    config: Config, plans: Sequence[Plan], device: tuple[str, float], shape: Shape, progress: Progress
) -> dict[str, Any]:
    """Return the position of the chosen plan and all that was measured."""
    name, memory_gb = device
    cap_mb = memory_gb * 1024
    costs: dict[int, Cost] = {}
    tried: list[int] = []

    def measure_mb(rung: int) -> float | None:
        trial = Trial(config, plans[rung], shape, cap_mb)
        cost = measure(trial, cap_mb if name == "cpu" else None)
        tried.append(rung)
        what = f"memory of {_describe(plans[rung])}"
        if cost is None:
            progress.say(f"{what}: over {cap_mb:.0f} MB")
            return None
        progress.say(f"{what}: {cost.peak_mb:.0f} of {cap_mb:.0f} MB, {cost.step_s:.1f} s a step")
        costs[rung] = cost
        return cost.peak_mb

    chosen = climb([step_work(plan) for plan in plans], measure_mb, SHARE * cap_mb)
    if chosen is None:
        raise _refuse(config, plans[0], costs.get(0), cap_mb)
    too_large = [rung for rung in tried if rung > chosen]
    return {
        "chosen": chosen,
        "peak_mb": round(costs[chosen].peak_mb),
        "step_s": round(costs[chosen].step_s, 1),
        "too_large": _describe(plans[min(too_large)]) if too_large else None,
    }


def _describe(plan: Plan) -> str:
    patch = "x".join(str(edge) for edge in plan.patch[: plan.dims])
    return f"{plan.batch_size} x {patch} voxels at {plan.features[0]} channels"


def _explain(config: Config, plan: Plan, known: dict[str, Any], cap_mb: float) -> dict[str, str]:
    """Return the plan's reasons, with the measurement in the place of the rules of thumb."""
    why = dict(plan.reasons)
    measured = f"{STEPS} steps peaked at {known['peak_mb']} of {cap_mb:.0f} MB, {known['step_s']} s a step"
    if known["too_large"]:
        measured += f"; {known['too_large']} took over {SHARE:.0%} of it"
    if not config.grid.patch:
        why["patch"] = "the largest whose training fits, up to the median shape, however long a step takes"
    if not config.grid.batch_size:
        is_slow = why["batch_size"].endswith(SLOW_BATCH)
        why["batch_size"] = "grows once the patch cannot" + (SLOW_BATCH if is_slow else "")
    why["batch_size"] += f"; {measured}"
    if takes_width(config):
        why["features"] = f"{plan.features[0]} channels, doubled a level; grows last"
    return why


def takes_width(config: Config) -> bool:
    """Whether the network takes its channels from the plan: not one that has them of its own, or is told."""
    builder = select("model", MODELS, config.model.name, config.model.options)
    has_option = "features" in inspect.signature(builder).parameters
    return has_option and all(config.model.options.get(name) is None for name in WIDTH_OPTIONS)


def _refuse(config: Config, plan: Plan, cost: Cost | None, cap_mb: float) -> ResourceError:
    took = f"{cost.peak_mb:.0f} MB" if cost else "more"
    fixed = [f"grid.{name}" for name in ("patch", "batch_size") if getattr(config.grid, name)]
    return ResourceError(
        f"a step of {_describe(plan)} takes {took}; {SHARE:.0%} of {cap_mb:.0f} MB may be planned for",
        hint="raise --memory-gb, "
        + (f"lower {' or '.join(fixed)} or set it to null, " if fixed else "")
        + "or choose a smaller network",
        code="MEMORY_PLAN",
    )
