"""doctor: what this machine is, what is known to go wrong on it, and what is fast on it, with verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.tracking.health import check_store
from medseg.tracking.place import find_home
from medseg.workflows.machine import BACKENDS, DECODERS, REQUIRED, Machine, look_around

if TYPE_CHECKING:
    import torch

    from medseg.train.conv3d import Convolution

Verdict = Literal["ok", "warn", "bad"]

LOW_GB = {"memory": (4.0, 1.0), "disk": (10.0, 1.0)}  # (warn, bad) below; a run of a hundred CTs takes 10
SLOWER = 1.5  # half precision over float32 from which it does not pay


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, what was found, whether that is well, and what to do if not."""

    name: str
    value: str
    verdict: Verdict = "ok"
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Return a plain dict."""
        return asdict(self)


def examine(out: Path) -> list[Finding]:
    """Return all findings; nothing is written. `out` is where runs are to go."""
    machine = look_around({"runs": out, "tracking": find_home()})
    return [
        *judge_versions(machine),
        *judge_hardware(machine),
        *judge_known_faults(machine),
        *(_try_convolutions(machine) if machine.versions["torch"] else ()),
        judge_store(*check_store()),
    ]


def judge_versions(machine: Machine) -> Iterator[Finding]:
    """Judge what is installed: what is required, decoders, and backends, which are optional."""
    yield Finding("python", str(machine.versions["python"]))
    for name in REQUIRED:
        yield _judge_version(name, machine.versions[name], "bad", "")
    for name, what in DECODERS.items():
        yield _judge_version(name, machine.versions[name], "warn", f" to read {what}")
    for name in BACKENDS:
        yield Finding(name, machine.versions[name] or "not installed (optional)")


def _judge_version(name: str, version: str | None, verdict: Verdict, purpose: str) -> Finding:
    if version:
        return Finding(name, version)
    return Finding(name, "not installed", verdict, f"pip install {name}{purpose}")


def judge_hardware(machine: Machine) -> Iterator[Finding]:
    """Judge processor, GPUs, memory and disks."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    known = [flag for flag in wanted if flag in machine.flags]
    yield Finding(
        "cpu", f"{machine.cpu}, {machine.cores} cores, {' '.join(known) or 'no vector units known'}"
    )
    for number, gpu in enumerate(machine.gpus):
        capability = "{}.{}".format(*gpu.capability)
        yield Finding(f"gpu {number}", f"{gpu.name}, capability {capability}, {gpu.memory_gb:.0f} GB")
    if not machine.gpus:
        yield Finding("gpu", "none that torch can use")
    total, free = machine.memory_gb
    yield _judge_space("memory", "memory", free, f"{free:.1f} of {total:.1f} GB free", "close other programs")
    for place, free in machine.disks_gb.items():
        yield _judge_space(f"disk of {place}", "disk", free, f"{free:.1f} GB free", "free some space")


def _judge_space(name: str, kind: str, free_gb: float, value: str, hint: str) -> Finding:
    warn, bad = LOW_GB[kind]
    verdict: Verdict = "bad" if free_gb < bad else "warn" if free_gb < warn else "ok"
    return Finding(name, value, verdict, "" if verdict == "ok" else hint)


def judge_known_faults(machine: Machine) -> Iterator[Finding]:
    """Judge combinations that are known to be slow or wrong; the sources stand in the names."""
    torch_version = (machine.versions["torch"] or "none").partition("+")[0]
    name = "conv3d in half precision four times slower (pytorch#166122)"
    if machine.gpus and torch_version == "2.9.0":
        hint = "another torch than 2.9.0, or train.amp=off"
        yield Finding(name, f"torch {torch_version} on CUDA", "warn", hint)
    else:
        yield Finding(name, "does not apply")
    name = "conv3d in bf16 silently wrong for big inputs (pytorch#163539)"
    if machine.gpus and machine.cudnn == 91002:
        yield Finding(name, "cuDNN 9.10.2", "bad", "another cuDNN than 9.10.2, or train.amp=fp16 or off")
    else:
        yield Finding(name, "does not apply")
    name = "bf16 on a CPU that has no bf16: up to 49 times slower"
    if machine.gpus or machine.has_bf16:
        yield Finding(name, "does not apply")
    else:
        hint = "leave train.amp at auto, which takes float32 here"
        yield Finding(name, "this CPU has none", "warn", hint)


def _try_convolutions(machine: Machine) -> Iterator[Finding]:
    import torch

    from medseg.train.conv3d import compare_precisions

    for kind in ("cpu", "cuda") if machine.gpus else ("cpu",):
        yield from judge_convolutions(kind, compare_precisions(torch.device(kind)), has_bf16=machine.has_bf16)


def judge_convolutions(
    kind: str, measured: Mapping[torch.dtype, Convolution], *, has_bf16: bool
) -> Iterator[Finding]:
    """Judge speed and equality with float32; slowness counts where the precision is what `auto` takes."""
    import torch

    from medseg.train.conv3d import BOUNDS, NAMES

    whole = measured[torch.float32]
    yield Finding(f"conv3d {kind} float32", f"{whole.step_s * 1e3:.1f} ms")
    for dtype, bound in BOUNDS.items():
        half = measured[dtype]
        name = f"conv3d {kind} {NAMES[dtype]}"
        value = f"{half.step_s * 1e3:.1f} ms, relative error {half.error:.1g}"
        is_taken = kind == "cuda" or (dtype is torch.bfloat16 and has_bf16)
        if not half.error <= bound:  # NaN is no equality
            yield Finding(
                name, value, "bad", f"above {bound:g}: train.amp=off, or other versions of torch and cuDNN"
            )
        elif is_taken and half.step_s > SLOWER * whole.step_s:
            yield Finding(name, value, "warn", "slower than float32: train.amp=off")
        else:
            yield Finding(name, value)


def judge_store(what: str, fault: str) -> Finding:
    """Judge the tracking store: training goes on without it, so its loss is a warning."""
    if not fault:
        return Finding("tracking", what)
    hint = "check MLFLOW_TRACKING_URI, or MEDSEG_HOME and its permissions; training goes on without it"
    return Finding("tracking", f"{what}: {fault}", "warn", hint)
