"""The parts of `gpu_check.py` that ask the training engine itself: start-up, compiler, patches, memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.core.files import make_folder
from medseg.data.loader import Patches
from medseg.data.settings import Augment
from medseg.train.loop import Job
from medseg.train.precision import autocast, compare_precision
from medseg.train.probe import measure
from medseg.workflows.fit import Trial
from medseg.workflows.fold import load_fold, make_job, make_network
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.start import settle_engine

Found = tuple[str, str, float, str, dict[str, Any]]  # check, what, value, name of its target, more

# Everything on every sample but noise, which comes from each device's own generator.
EVERYTHING = {
    **dict.fromkeys(("rotate_p", "scale_p", "elastic_p", "grid_distortion_p", "blur_p", "brightness_p"), 1.0),
    **dict.fromkeys(("contrast_p", "gamma_p", "gamma_inverted_p", "low_resolution_p", "bias_field_p"), 1.0),
    "noise_p": 0.0,
}
SAMPLES = 8
ROUNDS = 5


def check_start(run: RunFolder, scratch: Path, device: torch.device, amps: list[str]) -> Iterator[Found]:
    """Ask what `medseg train` asks first: is half precision right, and does the network compile."""
    config = run.load_config()
    fold = load_fold(run, config, 0)
    for amp in amps:
        train = config.train.model_copy(update={"amp": amp, "compile": "on"})
        asked = config.model_copy(update={"train": train})
        network, _ = make_network(asked, fold, device, None)
        plain = copy.deepcopy(network)
        job, _ = make_job(asked, fold, device, (0, 1), 0)
        engine = settle_engine(make_folder(scratch / f"engine_{amp}"), network, job)
        notes = [note.message for note in engine.notes]
        batch = next(iter(job.batches(0, 1)))
        image, label = batch.image.to(device), batch.label.to(device)
        agreement = compare_precision(plain, job.loss, image, label, getattr(torch, LONG[amp]))
        took = engine.dtype == LONG[amp]
        # Asked for and refused is a miss; float32 is compared with itself.
        yield f"start {amp}", "output", agreement.output if took else float("nan"), "start", {"notes": notes}
        yield f"start {amp}", "loss", agreement.loss if took else float("nan"), "start", {}
        job = replace(job, dtype=engine.torch_dtype)
        eager, slow_s = _step(plain, job, image, label)
        compiled, fast_s = _step(network, job, image, label)
        error = float((compiled - eager).norm() / eager.norm())
        more = {"eager_s": slow_s, "compiled_s": fast_s}
        yield (
            f"compiled {amp}",
            "gradient",
            error if engine.is_compiled else float("nan"),
            f"compiled_{amp}",
            more,
        )


LONG = {"off": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _step(network: torch.nn.Module, job: Job, image: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """Return all gradients of one batch, and the median seconds of some steps."""
    times = []
    for _ in range(ROUNDS):
        network.zero_grad(set_to_none=True)
        started = read_clock(job.device)
        torch.manual_seed(0)
        with autocast(job.device, job.dtype):
            loss = job.loss(network(image), label)
        # fp16 loses small gradients unless they are scaled, as training does.
        (loss * 1024).backward()
        times.append(read_clock(job.device) - started)
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(gradients) / 1024, sorted(times)[ROUNDS // 2]


def check_patches(run: RunFolder, device: torch.device) -> Iterator[Found]:
    """Do the same draws on the CPU and on the device."""
    config = run.load_config()
    fold = load_fold(run, config, 0)
    augment = Augment.model_validate({**config.augment.model_dump(), **EVERYTHING})
    patches = Patches(fold.training, fold.plan, augment, seed=0, foreground_every=(1, 2))
    cuts = [patches[0, sample, sample % len(fold.training)] for sample in range(SAMPLES)]
    ours, ours_s = _finish(patches, cuts, device)
    theirs, theirs_s = _finish(patches, cuts, torch.device("cpu"))
    error = float((ours[0].cpu() - theirs[0]).norm() / theirs[0].norm())
    equal = float((ours[1].cpu() == theirs[1]).double().mean())
    more = {"device_ms": 1e3 * ours_s / SAMPLES, "cpu_ms": 1e3 * theirs_s / SAMPLES}
    yield "augmentation", "image", error, "patch_difference", more  # milliseconds a patch
    yield "augmentation", "label", equal, "equal_patch_voxels", {}


def _finish(patches: Patches, cuts: list[Any], device: torch.device) -> tuple[tuple[Tensor, Tensor], float]:
    times = []
    for _ in range(ROUNDS):
        started = read_clock(device)
        batch = patches.finish(cuts, device)
        times.append(read_clock(device) - started)
    return (batch.image, batch.label), sorted(times)[ROUNDS // 2]


def check_memory(run: RunFolder, device: torch.device) -> Iterator[Found]:
    """Let the planner's probe measure two steps, within a cap that holds them and one that does not."""
    config, plan = run.load_config(), run.load_plan()
    large, small = 1024 * config.memory_gb, 600.0 if device.type == "cuda" else 100.0
    shape = tuple(2 * edge for edge in plan.patch)
    costs = [
        measure(Trial(config, plan, shape, cap), cap if device.type == "cpu" else None)
        for cap in (large, small)
    ]
    share = costs[0].peak_mb / large if costs[0] else float("nan")
    more = {"peak_mb": costs[0].peak_mb, "step_s": costs[0].step_s} if costs[0] else {}
    yield "memory", f"of a cap of {large:.0f} MB", share, "memory_share", more
    yield "memory", f"a cap of {small:.0f} MB refused", float(costs[1] is None), "refused", {}


def read_clock(device: torch.device) -> float:
    """Return the time at which the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
