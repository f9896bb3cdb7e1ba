"""Kill preprocess, train and infer at random instants; the same command again must end with the same bytes.

    python benchmarks/kill.py --json out/kill.json [--kills 10] [--in-write 2] [--verbs train] [--seed 0]

Each verb runs once to its end, undisturbed: its duration and its files are the reference. Then, for each
kill, it starts in a fresh folder, its whole process group gets SIGKILL at a random instant (one in each of
`--kills` equal parts of the duration), and the same command runs to its end. `train` also kills itself
`--in-write` times with half a checkpoint on the disk. Every file must then equal the reference's, except
those that hold durations, and nothing may be left over. On a CPU, with epochs and threads fixed.

Exit: 0 all killed and all equal, 1 not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

# Durations are in report.json, history.csv and, through the history, in checkpoint.pt.
TIMED = {"report.json", "history.csv", "checkpoint.pt"}
VERBS = ("preprocess", "train", "infer")
RETRIES = 4  # of a kill that came after the end
IN_WRITE = "KILL_IN_WRITE"  # environment: which checkpoint a training dies in
SETTINGS = {
    "device": "cpu",
    "threads": 1,
    "workers": 2,
    "split.folds": 2,
    "grid.patch": "[32, 32, 16]",
    "grid.batch_size": 2,
    "train.iterations_per_epoch": 3,
    "train.validate_every": 2,
    "train.validate_cases": 1,
    "train.amp": "off",
}
# Most of the time of a short run is the import of MONAI; `thin` does without.
NETS = {
    "strided_unet": {
        "model.name": "kill:strided",
        "model.options": "{features: [8, 16, 16, 16]}",
        "infer.overlap": 0.8,  # many windows, so that infer is not over as soon as it has started
    },
    "thin": {"model.name": "kill:thin"},
}


def thin(in_channels: int, out_channels: int, grid: Any) -> Any:
    """Build two convolutions around a norm; the verbs find it as `kill:thin`."""
    from torch import nn

    first, last = nn.Conv3d(in_channels, 8, 3, padding=1), nn.Conv3d(8, out_channels, 3, padding=1)
    return nn.Sequential(first, nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(), last)


def strided(in_channels: int, out_channels: int, grid: Any, *, features: list[int]) -> Any:
    """Build `strided_unet`; by this name the verbs import this file."""
    from medseg.models.strided_unet import strided_unet

    return strided_unet(in_channels, out_channels, grid, features=features)


def die_in_write(number: int) -> None:
    """Let this process kill itself in the middle of its `number`-th checkpoint."""
    write, begun = Path.write_bytes, [0]

    def write_half(path: Path, data: bytes) -> int:
        if path.name.endswith("checkpoint.pt"):
            begun[0] += 1
            if begun[0] == number:
                write(path, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    Path.write_bytes = write_half  # type: ignore[method-assign]


class Verb(NamedTuple):
    """A command that writes into `out`; `before`, if any, is what `out` is a copy of at the start."""

    name: str
    arguments: list[str]
    out: Path
    before: Path | None = None


def main() -> int:
    """Try every verb, write the JSON and say whether all ended alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--kills", type=int, default=10, help="of each verb (default: 10)")
    parser.add_argument("--in-write", type=int, default=2, help="more of train, in a checkpoint (default: 2)")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS, help="to kill (default: all)")
    parser.add_argument("--cases", type=int, default=8, help="phantoms (default: 8)")
    parser.add_argument("--epochs", type=int, default=10, help="(default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    parser.add_argument("--net", choices=NETS, default="strided_unet", help="(default: strided_unet)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), options)
    equal = {row["verb"]: row["equal"] / row["kills"] for row in rows}
    all_killed = all(row["killed"] == row["kills"] for row in rows)
    result = {
        "name": "kill",
        "rows": rows,
        "ratio": equal,  # shares of the killed and repeated commands that ended like the reference
        "target": dict.fromkeys(equal, 1.0),
        "ok": all_killed and all(share == 1 for share in equal.values()),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["ok"] else 1


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a verb; each verb starts from what the one before it ended with."""
    data, run, masks = folder / "data", folder / "RUN", folder / "masks"
    call(["phantom", "-o", str(data), "--cases", str(options.cases), "-q"], folder)
    changes = {**SETTINGS, **NETS[options.net], "train.epochs": options.epochs}
    settings = [f"{key}={value}" for key, value in changes.items()]
    sets = [word for setting in settings for word in ("--set", setting)]
    preprocessed, model = folder / "preprocessed", folder / "model"
    verbs = [
        Verb("preprocess", ["phantom_ct", "--data", str(data), "-o", str(run), *sets], run),
        Verb("train", [str(run), "--no-tracking"], run, before=preprocessed),
        Verb(
            "infer",
            [str(data / "imagesTr"), "-m", str(model), "-o", str(masks), "--threads", "1", "--trust-code"],
            masks,
        ),
    ]
    rng = random.Random(options.seed)
    rows = []
    for verb in verbs:
        writes = [rng.randint(1, options.epochs) for _ in range(options.in_write)]
        kills = options.kills if verb.name in options.verbs else 0
        row, ended = try_verb(verb, folder, kills, writes if kills and verb.name == "train" else [], rng)
        if kills:
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        if verb.name == "preprocess":
            ended.rename(preprocessed)
        elif verb.name == "train":
            (ended / "model").rename(model)
    return rows


def try_verb(
    verb: Verb, folder: Path, kills: int, writes: list[int], rng: random.Random
) -> tuple[dict[str, Any], Path]:
    """Return a verb's row, and the folder that the undisturbed run left.

    Args:
        verb: What to kill.
        folder: Scratch.
        kills: How often, at random instants.
        writes: Checkpoints to be killed in, too; the first is 1.
        rng: Of the instants.
    """
    reset(verb)
    started = time.perf_counter()
    call([verb.name, *verb.arguments], folder)
    undisturbed_s = duration_s = time.perf_counter() - started
    reference = folder / f"{verb.name}-reference"
    verb.out.rename(reference)
    expected = hash_files(reference)
    trials = []
    for part in range(kills):
        share = (part + rng.random()) / kills
        for _ in range(RETRIES):
            reset(verb)
            trial = kill_and_repeat(verb, folder, share * duration_s)
            if trial["was_killed"]:
                break
            duration_s = trial["ended_s"]  # the machine has become faster: aim anew
        trials.append({**trial, "different": differences(expected, hash_files(verb.out))})
    for number in writes:
        reset(verb)
        trial = kill_and_repeat(verb, folder, in_write=number)
        trials.append({**trial, "different": differences(expected, hash_files(verb.out))})
    shutil.rmtree(verb.out, ignore_errors=True)
    return {
        "verb": verb.name,
        "kills": len(trials),
        "killed": sum(trial["was_killed"] for trial in trials),
        "killed_while_writing": sum(trial["was_killed"] and trial["had_written"] for trial in trials),
        "killed_in_checkpoint": sum(trial["is_torn"] for trial in trials),
        "equal": sum(not trial["different"] for trial in trials),
        "different": sorted({name for trial in trials for name in trial["different"]})[:20],
        "instants_s": [round(trial["ended_s"], 2) for trial in trials],
        "undisturbed_s": round(undisturbed_s, 2),
        "files": len(expected),
    }, reference


def kill_and_repeat(
    verb: Verb, folder: Path, instant_s: float | None = None, in_write: int = 0
) -> dict[str, Any]:
    """Start a verb, kill its process group after `instant_s` or in a write, and run it again to its end."""
    before = hash_files(verb.out, timed=True)
    started = time.perf_counter()
    process = start([verb.name, *verb.arguments], folder, {IN_WRITE: str(in_write)} if in_write else {})
    try:
        process.communicate(timeout=instant_s)
        was_killed = process.returncode == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        was_killed = True
    ended_s = time.perf_counter() - started
    had_written = hash_files(verb.out, timed=True) != before
    is_torn = any(verb.out.rglob(".part-*checkpoint.pt"))
    call([verb.name, *verb.arguments], folder)
    return {
        "ended_s": ended_s,
        "was_killed": was_killed,
        "had_written": had_written,
        "is_torn": is_torn,
    }


def reset(verb: Verb) -> None:
    """Bring a verb's folder to its state before the verb."""
    shutil.rmtree(verb.out, ignore_errors=True)
    if verb.before:
        shutil.copytree(verb.before, verb.out)


def start(
    arguments: list[str], folder: Path, variables: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start medseg in a process group of its own."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, **(variables or {}), "MEDSEG_HOME": str(folder / "home"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "medseg", *arguments]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def call(arguments: list[str], folder: Path) -> None:
    """Run medseg to its end."""
    process = start(arguments, folder)
    _, stderr = process.communicate()
    if process.returncode:
        raise SystemExit(f"medseg {arguments[0]} ended with {process.returncode}:\n{stderr.decode()}")


def hash_files(folder: Path, *, timed: bool = False) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder; of files with durations only that they are there."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return {
        str(path.relative_to(folder)): ""
        if path.name in TIMED and not timed
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the names of files that are missing, left over or different."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


if __name__ == "__main__":
    sys.exit(main())
elif IN_WRITE in os.environ:  # imported by a training
    die_in_write(int(os.environ[IN_WRITE]))
