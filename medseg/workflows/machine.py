"""What this machine is, as plain data without paths: versions, processor, GPUs, memory, disks."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path

REQUIRED = (
    *("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom", "highdicom"),
    *("blosc2", "safetensors", "connected-components-3d", "mlflow"),
)
DECODERS = {  # distribution -> what it decodes
    "isal": "gzip",
    "python-gdcm": "JPEG, lossless and 12-bit JPEG in DICOM",
    "pylibjpeg-openjpeg": "JPEG 2000 in DICOM",
    "pyjpegls": "JPEG-LS in DICOM",
}
BACKENDS = ("openvino", "onnxruntime")  # optional: faster inference on CPUs
UNLIMITED = 2**60  # cgroups say "max", or a number near 2^63


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    capability: tuple[int, int]
    memory_gb: float


@dataclass(frozen=True)
class Machine:
    """All that the doctor judges, apart from what has to be tried.

    Args:
        versions: Of distributions, None for those that are not installed; also "python".
        cpu: Model name.
        cores: That this process may use.
        flags: Instruction sets, as the kernel calls them.
        memory_gb: (total, available), a container's limit included.
        disks_gb: Free space by what is to be written there.
        gpus: CUDA devices that torch sees.
        cudnn: As torch numbers it (91002 is 9.10.2), None without CUDA.
    """

    versions: Mapping[str, str | None]
    cpu: str
    cores: int
    flags: frozenset[str]
    memory_gb: tuple[float, float]
    disks_gb: Mapping[str, float]
    gpus: tuple[Gpu, ...] = ()
    cudnn: int | None = None
    has_bf16: bool = field(init=False)

    def __post_init__(self) -> None:
        """Tell whether the processor multiplies bf16 itself (x86: AVX-512 BF16 or AMX; Arm: bf16)."""
        object.__setattr__(self, "has_bf16", bool({"avx512_bf16", "amx_bf16", "bf16"} & self.flags))


def look_around(places: Mapping[str, Path]) -> Machine:
    """Return this machine; `places` are the folders whose disks matter, which need not exist."""
    names = (*REQUIRED, *DECODERS, *BACKENDS)
    versions = {"python": platform.python_version(), **{name: find_version(name) for name in names}}
    cpu, flags = read_cpu(_read("/proc/cpuinfo"))
    gpus, cudnn = _find_gpus() if versions["torch"] else ((), None)
    return Machine(
        versions=versions,
        cpu=cpu or platform.processor() or platform.machine(),
        cores=count_cores(),
        flags=flags,
        memory_gb=find_memory(),
        disks_gb={name: shutil.disk_usage(_nearest(path)).free / 2**30 for name, path in places.items()},
        gpus=gpus,
        cudnn=cudnn,
    )


def find_version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def read_cpu(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Return model and instruction sets from /proc/cpuinfo."""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return model[1].strip() if model else "", frozenset(flags[1].split() if flags else ())


def count_cores() -> int:
    """Return how many cores this process may use: those it is bound to, of a container its share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group = Path("/sys/fs/cgroup")
    times = [_read(str(group / "cpu" / f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period")]
    return limit_cores(bound, _read(str(group / "cpu.max")) or " ".join(times))


def limit_cores(cores: int, quota: str) -> int:
    """Return cores, or what a cgroup's "quota period" in microseconds allows where that is less.

    A part of a core counts as one: "150000 100000" are 2. No limit is "max" or a quota of -1.
    """
    numbers = quota.split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers) or not int(numbers[1]):
        return cores
    return max(1, min(cores, ceil(int(numbers[0]) / int(numbers[1]))))


def find_memory() -> tuple[float, float]:
    """Return total and available GB now, a container's limit included; 0 where the system does not tell."""
    limit, used, stat = (_read(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current", "stat"))
    return read_memory(_read("/proc/meminfo"), limit, used, stat)


def read_memory(meminfo: str, limit: str = "", used: str = "", stat: str = "") -> tuple[float, float]:
    """Return total and available GB from /proc/meminfo, or of the container where it has less.

    What a container keeps of files, as its memory.stat tells, it gives back when memory is asked for.
    """
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s*(\d+) kB", meminfo, re.MULTILINE)}
    total, available = (kib.get(name, 0) / 2**20 for name in ("MemTotal", "MemAvailable"))
    if limit.strip().isdigit() and int(limit) < UNLIMITED:
        own = int(limit) / 2**30
        kept = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE)))
        free = own - max(0, int(used.strip() or 0) - kept) / 2**30
        total, available = min(total, own), min(available, free)
    return total, available


def _find_gpus() -> tuple[tuple[Gpu, ...], int | None]:
    import torch

    if not torch.cuda.is_available():
        return (), None
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = tuple(Gpu(gpu.name, (gpu.major, gpu.minor), gpu.total_memory / 2**30) for gpu in found)
    return gpus, torch.backends.cudnn.version()  # type: ignore[no-untyped-call]


def _nearest(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
