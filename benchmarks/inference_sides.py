"""The commands that the inference benchmark compares: what each takes with all its processes; their masks."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nnunet_env
import numpy as np
import torch
from process_tree import Meter, read_stat

from medseg.data.cases import Case
from medseg.data.loading import load_image
from medseg.data.preprocess import Placement
from medseg.inference.export import Exporter, _box
from medseg.inference.layers import Layer, Plane, interpolate
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.io import read_labels

Row = dict[str, Any]

CHILD = Path(__file__).with_name("inference_child.py")
MARGIN = 0.01  # of the best two logits; where it is smaller, rounding decides
POLL_S, LOOK_S = 0.05, 0.5
NOT_OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")  # each side takes all cores, as users do


@dataclass(frozen=True)
class Side:
    """One command.

    Args:
        name: For rows; "nnunet", "monai", or "medseg" and its options.
        command: Without what says where masks go.
        out_option: What does.
        environment: Of the command.
        clock: Where the child that runs it writes its seconds; None: the plain command.
    """

    name: str
    command: tuple[str, ...]
    out_option: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: Path | None = None


@dataclass(frozen=True)
class Bench:
    """Where everything lies.

    Args:
        work: A scratch folder.
        programs: Of nnU-Net's environment.
        has_clock: Whether commands run with a clock on their network.
    """

    work: Path
    programs: Path
    has_clock: bool = False

    def nnunet(self, model: Path, scans: Path, *, mirror: bool = False) -> Side:
        """Return nnU-Net's own command."""
        options = ["-i", str(scans / "peer"), "-m", str(model), "-f", "0", "-device", "cpu"]
        options += ["--disable_progress_bar", *([] if mirror else ["--disable_tta"])]
        start = [str(self.programs / "nnUNetv2_predict_from_modelfolder")]
        clock = self._clock("nnunet")
        if clock:
            start = [str(self.programs / "python"), str(CHILD), "nnunet", str(clock)]
        environment = nnunet_env.environment(self.work / "nnunet")
        return Side("nnunet", (*start, *options), ("-o",), environment, clock)

    def medseg(self, model: Path, scans: Path, options: str = "", name: str = "medseg") -> Side:
        """Return `medseg infer` with options."""
        name = f"{name} {options}".strip()
        clock = self._clock(name)
        start = [sys.executable, "-m", "medseg", "infer"]
        if clock:
            start = [sys.executable, str(CHILD), "medseg", str(clock)]
        command = (*start, str(scans / "ours"), "-m", str(model), "--quiet", *shlex.split(options))
        return Side(name, command, ("-o",), self._own(), clock)

    def monai(self, model: Path, scans: Path) -> Side:
        """Return MONAI's recipe around the same network."""
        clock = self.work / "monai.clock.json"
        command = (sys.executable, str(CHILD), "monai", str(clock), str(model), str(scans / "ours"))
        return Side("monai", command, (), self._own(), clock)

    def _clock(self, name: str) -> Path | None:
        return self.work / f"{name.replace(' ', '_')}.clock.json" if self.has_clock else None

    def _own(self) -> dict[str, str]:
        paths = [str(CHILD.parent.parent), os.environ.get("PYTHONPATH", "")]
        home = str(self.work / "home")
        return {**os.environ, "MEDSEG_HOME": home, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def masks(self, side: Side) -> Path:
        """Return where a side's masks go."""
        return self.work / "masks" / side.name.replace(" ", "_")


def run_in_turns(bench: Bench, sides: Sequence[tuple[Side, int]]) -> list[Row]:
    """Run each side as often as it says, in turns, and return a row of medians for each."""
    runs: dict[str, list[Row]] = {side.name: [] for side, _ in sides}
    for turn in range(max(count for _, count in sides)):
        for side, count in sides:
            if turn < count:
                runs[side.name].append(run_once(bench, side))
                print(json.dumps({"side": side.name, **runs[side.name][-1]}), file=sys.stderr, flush=True)
    return [
        {"side": name, "runs": len(rows), **{key: statistics.median(r[key] for r in rows) for key in rows[0]}}
        for name, rows in runs.items()
    ]


def run_once(bench: Bench, side: Side) -> Row:
    """Run a command into an empty folder; return seconds and the peak of memory of all its processes."""
    out = bench.masks(side)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    state, log = bench.work / "meter.json", bench.work / f"{side.name.replace(' ', '_')}.log"
    state.unlink(missing_ok=True)
    meter, memory = Meter(state), Memory()

    def watch() -> bool:
        memory.look(meter.state["running"]["session"])
        return True

    environment = {key: value for key, value in side.environment.items() if key not in NOT_OURS}
    command = [*side.command, *side.out_option, str(out)]
    if status := meter.run(command, environment, log, watch=watch, poll_s=POLL_S):
        raise SystemExit(f"{side.name} ended with {status}: {log.read_text()[-2000:]}")
    row = {"wall_s": meter.state["wall_s"], "cpu_s": meter.cpu_s, "peak_mb": memory.peak_mb}
    if side.clock:
        clock = json.loads(side.clock.read_text())
        clock["outside_s"] = row["wall_s"] - clock["network_s"]
        clock["outside_cpu_s"] = row["cpu_s"] - clock["network_cpu_s"]
        row |= clock
    return {key: round(value, 3) for key, value in row.items()}


class Memory:
    """The largest memory of a session's processes: shared pages count once, each one's own peak counts."""

    def __init__(self) -> None:
        self.peak_mb, self._next = 0.0, 0.0

    def look(self, session: int) -> None:
        """Look again, where it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        sizes = list(self._sizes(session))
        self.peak_mb = max(self.peak_mb, sum(pss for pss, _ in sizes), *(peak for _, peak in sizes), 0.0)

    def _sizes(self, session: int) -> Iterator[tuple[float, float]]:
        for path in Path("/proc").glob("[0-9]*/stat"):
            fields = read_stat(path)
            if fields and int(fields[3]) == session:
                with contextlib.suppress(OSError, StopIteration):  # it has just ended
                    yield (
                        _find_mb(path.parent / "smaps_rollup", "Pss:"),
                        _find_mb(path.parent / "status", "VmHWM:"),
                    )


def _find_mb(path: Path, name: str) -> float:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


class Margins:
    """A target of the export: by how much the best logit leads in each voxel; infinite outside the box."""

    def __init__(self, placement: Placement, axis: int) -> None:
        self.array = np.full(placement.original.shape, np.inf, np.float32)
        self._box = _box(self.array, placement, axis)

    def paint(self, layer: Layer, planes: Sequence[Plane], weights: Any, new: slice) -> None:
        """Write new planes, some rows at a time."""
        rows = len(layer.rows.cell)
        for index, share in zip(range(new.start, new.stop), weights, strict=True):
            mixed = sum(plane.logits * part for plane, part in zip(planes, share))
            for start in range(0, rows, 32):
                part = slice(start, min(rows, start + 32))
                best = np.partition(interpolate(layer, mixed, part), -2, axis=0)
                self._box[index, part] = best[-1] - best[-2]


def compare_masks(peer: Path, ours: Sequence[Path], model_path: Path, scans: Path) -> list[Row]:
    """Return for each folder of masks the share of voxels that equal the peer's, and of those set aside."""
    segmenter = Segmenter(model := load_model(model_path, torch.device("cpu")), model.infer)
    counts = [[0, 0, 0, 0] for _ in ours]
    for image in sorted((scans / "ours").iterdir()):
        margin = find_margins(segmenter, Case(image.name.removesuffix(".nii.gz"), (image,)))
        reference = read_labels(peer / image.name).array
        for count, folder in zip(counts, ours, strict=True):
            equal = read_labels(folder / image.name).array == reference
            count[0] += equal.size
            count[1] += int((margin < MARGIN).sum())
            count[2] += int(equal[margin >= MARGIN].sum())
            count[3] += int((reference > 0).sum())
    return [
        {"agreement": equal / (all_ - aside), "set_aside": aside / all_, "peer_foreground": found / all_}
        for all_, aside, equal, found in counts
    ]


def find_margins(segmenter: Segmenter, case: Case) -> Any:
    """Return the margin of every voxel of a scan, by medseg's own exact logits."""
    model = segmenter.model
    array, placement = model.preprocess(load_image(case, len(model.data.channels)))
    axis = segmenter.plan(array.shape[1:]).axis
    margins = Margins(placement, axis)
    exporter = Exporter(placement, axis, [margins])
    for slab in segmenter.stream(array):
        exporter.add(slab)
    exporter.finish()
    return margins.array
