"""Verdicts on injected machines, and this machine once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medseg.io.dicom.pixels.codecs import CODECS
from medseg.train.conv3d import BOUNDS, Convolution
from medseg.workflows import doctor, machine
from medseg.workflows.doctor import (
    Finding,
    examine,
    judge_convolutions,
    judge_hardware,
    judge_known_faults,
    judge_store,
    judge_versions,
)
from medseg.workflows.machine import (
    BACKENDS,
    DECODERS,
    REQUIRED,
    Gpu,
    Machine,
    limit_cores,
    look_around,
    read_cpu,
    read_memory,
)

NAMES = ("python", *REQUIRED, *DECODERS, *BACKENDS)
HEALTHY = Machine(
    versions=dict.fromkeys(NAMES, "2.13.0+cu130"),
    cpu="Some CPU",
    cores=4,
    flags=frozenset({"avx2", "avx512f", "avx512_bf16"}),
    memory_gb=(32.0, 16.0),
    disks_gb={"runs": 100.0, "tracking": 100.0},
    gpus=(Gpu("Some GPU", (9, 0), 80.0),),
    cudnn=91900,
)


def changed(**parts: object) -> Machine:
    return replace(HEALTHY, **parts)  # type: ignore[arg-type]


def without(*names: str) -> Machine:
    return changed(versions={**HEALTHY.versions, **dict.fromkeys(names)})


def unwell(findings: object) -> dict[str, str]:
    return {row.name: row.verdict for row in findings if row.verdict != "ok"}  # type: ignore[attr-defined]


def test_a_healthy_machine_has_no_complaint():
    for judge in (judge_versions, judge_hardware, judge_known_faults):
        assert unwell(judge(HEALTHY)) == {}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_package_that_is_missing_is_bad(name: str):
    assert unwell(judge_versions(without(name))) == {name: "bad"}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_that_is_missing_is_a_warning_with_what_it_reads(name: str):
    (row,) = [row for row in judge_versions(without(name)) if row.verdict != "ok"]
    assert row == Finding(name, "not installed", "warn", f"pip install {name} to read {DECODERS[name]}")


def test_every_decoder_of_dicom_is_asked_for():
    assert {codec.package for codec in CODECS.values()} - {"numpy"} <= set(DECODERS)


def test_optional_backends_may_be_missing():
    assert unwell(judge_versions(without(*BACKENDS))) == {}


SLOW_AMP = "conv3d in half precision four times slower (pytorch#166122)"
WRONG_BF16 = "conv3d in bf16 silently wrong for big inputs (pytorch#163539)"
NO_BF16 = "bf16 on a CPU that has no bf16: up to 49 times slower"


@pytest.mark.parametrize(
    ("torch_version", "gpus", "found"),
    [
        ("2.9.0", HEALTHY.gpus, {SLOW_AMP: "warn"}),
        ("2.9.0+cu128", HEALTHY.gpus, {SLOW_AMP: "warn"}),
        ("2.9.0+cpu", (), {}),
        ("2.9.1", HEALTHY.gpus, {}),
        (None, (), {}),
    ],
)
def test_torch_2_9_0_is_slow_in_half_precision_on_a_gpu(
    torch_version: str | None, gpus: tuple[Gpu, ...], found
):
    versions = {**HEALTHY.versions, "torch": torch_version}
    assert unwell(judge_known_faults(changed(versions=versions, gpus=gpus))) == found


@pytest.mark.parametrize(("cudnn", "found"), [(91002, {WRONG_BF16: "bad"}), (91003, {}), (None, {})])
def test_cudnn_9_10_2_is_wrong_in_bf16(cudnn: int | None, found: dict[str, str]):
    assert unwell(judge_known_faults(changed(cudnn=cudnn))) == found


@pytest.mark.parametrize(
    ("flags", "gpus", "found"),
    [
        ({"avx2", "avx512f"}, (), {NO_BF16: "warn"}),
        ({"avx2"}, HEALTHY.gpus, {}),
        ({"avx512_bf16"}, (), {}),
        ({"amx_bf16"}, (), {}),
        ({"asimd", "bf16"}, (), {}),
    ],
)
def test_a_cpu_without_bf16_is_told_where_it_would_train(flags: set[str], gpus: tuple[Gpu, ...], found):
    assert unwell(judge_known_faults(changed(flags=frozenset(flags), gpus=gpus))) == found


@pytest.mark.parametrize(("free", "found"), [(4.0, {}), (3.9, {"memory": "warn"}), (0.9, {"memory": "bad"})])
def test_memory_that_is_short(free: float, found: dict[str, str]):
    assert unwell(judge_hardware(changed(memory_gb=(8.0, free)))) == found


@pytest.mark.parametrize(
    ("free", "found"), [(10.0, {}), (9.9, {"disk of runs": "warn"}), (0.9, {"disk of runs": "bad"})]
)
def test_a_disk_that_is_short(free: float, found: dict[str, str]):
    assert unwell(judge_hardware(changed(disks_gb={"runs": free, "tracking": 99.0}))) == found


def test_devices_are_named():
    rows = {row.name: row.value for row in judge_hardware(HEALTHY)}
    assert rows["cpu"] == "Some CPU, 4 cores, avx2 avx512f avx512_bf16"
    assert rows["gpu 0"] == "Some GPU, capability 9.0, 80 GB"
    alone = {row.name: row.value for row in judge_hardware(changed(gpus=(), flags=frozenset()))}
    assert alone["gpu"] == "none that torch can use" and alone["cpu"].endswith("no vector units known")


# --- convolutions ------------------------------------------------------------------------------


def measured(bf16: tuple[float, float] = (0.5, 1e-3), fp16: tuple[float, float] = (0.5, 1e-3)):
    return {
        torch.float32: Convolution(1.0, 0.0),
        torch.bfloat16: Convolution(*bf16),
        torch.float16: Convolution(*fp16),
    }


@pytest.mark.parametrize("error", [2 * BOUNDS[torch.bfloat16], float("nan"), float("inf")])
def test_half_precision_that_differs_from_float32_is_bad(error: float):
    rows = judge_convolutions("cuda", measured(bf16=(0.5, error)), has_bf16=False)
    assert unwell(rows) == {"conv3d cuda bf16": "bad"}


@pytest.mark.parametrize(
    ("kind", "has_bf16", "found"),
    [
        ("cuda", False, {"conv3d cuda bf16": "warn", "conv3d cuda fp16": "warn"}),
        ("cpu", True, {"conv3d cpu bf16": "warn"}),  # fp16 is not used on a CPU
        ("cpu", False, {}),  # nor is bf16 then
    ],
)
def test_half_precision_that_would_be_taken_and_is_slower_is_a_warning(kind: str, has_bf16: bool, found):
    rows = judge_convolutions(kind, measured((1.6, 1e-3), (1.6, 1e-3)), has_bf16=has_bf16)
    assert unwell(rows) == found


def test_times_and_errors_are_shown():
    rows = [row.value for row in judge_convolutions("cpu", measured(), has_bf16=True)]
    assert rows == ["1000.0 ms", *["500.0 ms, relative error 0.001"] * 2]


def test_a_lost_store_is_a_warning_since_training_goes_on():
    assert judge_store("a database", "") == Finding("tracking", "a database")
    row = judge_store("a server", "it does not answer")
    assert (row.value, row.verdict) == ("a server: it does not answer", "warn")


# --- machines ----------------------------------------------------------------------------------


def test_x86_and_arm_tell_their_instruction_sets():
    assert read_cpu("model name\t: AMD EPYC\nflags\t\t: fpu avx2\nflags\t\t: fpu") == (
        "AMD EPYC",
        frozenset({"fpu", "avx2"}),
    )
    assert read_cpu("Features\t: asimd bf16\n") == ("", frozenset({"asimd", "bf16"}))
    assert read_cpu("") == ("", frozenset())


MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"


@pytest.mark.parametrize(
    ("limit", "used", "found"),
    [
        ("", "", (16.0, 8.0)),
        ("max\n", "", (16.0, 8.0)),
        (f"{2**63 - 4096}\n", "5", (16.0, 8.0)),
        (f"{4 * 2**30}\n", f"{2**30}\n", (4.0, 3.0)),
        (f"{12 * 2**30}\n", f"{2**30}\n", (12.0, 8.0)),
        (f"{4 * 2**30}\n", "", (4.0, 4.0)),
    ],
)
def test_a_container_has_the_memory_it_is_given(limit: str, used: str, found: tuple[float, float]):
    assert read_memory(MEMINFO, limit, used) == found


def test_what_a_container_keeps_of_files_is_free():
    stat = f"anon 5\nactive_file {2**30}\ninactive_file {2**29}\nactive_anon 7\n"
    assert read_memory(MEMINFO, f"{4 * 2**30}\n", f"{3 * 2**30}\n", stat) == (4.0, 2.5)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 4),
        ("150000 100000\n", 2),
        ("20000 100000\n", 1),
        ("800000 100000\n", 4),
        ("-1 100000", 4),
        ("", 4),
        (" ", 4),
        ("100000 0", 4),
    ],
)
def test_a_container_has_the_cores_it_is_given(quota: str, cores: int):
    assert limit_cores(4, quota) == cores


def test_gpus_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch):
    class Properties:
        name, major, minor, total_memory = "Some GPU", 8, 6, 24 << 30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    found = look_around({})
    assert found.gpus == (Gpu("Some GPU", (8, 6), 24.0),) * 2 and found.cudnn == 91002


def test_disks_of_folders_that_are_not_there_yet_are_found(tmp_path: Path):
    found = look_around({"runs": tmp_path / "a" / "b"})
    assert found.disks_gb["runs"] > 0 and not (tmp_path / "a").exists()


def test_a_machine_without_torch_is_examined_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(machine, "find_version", lambda name: None if name == "torch" else "1.0")
    rows = {row.name: row.verdict for row in examine(tmp_path)}
    assert rows["torch"] == "bad" and not any(name.startswith("conv3d cpu") for name in rows)


def test_convolutions_are_tried_on_every_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.train.conv3d.compare_precisions", lambda device: measured())
    tried = [row.name for row in doctor._try_convolutions(HEALTHY) if row.name.endswith("float32")]
    assert tried == ["conv3d cpu float32", "conv3d cuda float32"]
