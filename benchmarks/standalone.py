"""An exported model in an environment without torch, monai or medseg, against `medseg infer`.

    python benchmarks/standalone.py --model out/hippo --scans $MEDSEG_DATA/hippocampus/imagesTr --json FILE

Makes a virtual environment (build/standalone-env) with numpy, nibabel and onnxruntime, exports the model,
runs run.py on the scans there and `medseg infer` here, and compares the masks voxel by voxel.

Exit: 0 targets met, 1 missed, 4 the environment cannot be made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "standalone-env"
PACKAGES = ("numpy", "nibabel", "onnxruntime")
ABSENT = ("torch", "monai", "medseg", "scipy")
TARGET = {"agreement": 0.9999}  # at least, of the voxels of every case


def main() -> int:
    """Export, run both, compare, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scans", type=Path, required=True, help="folder of NIfTI files")
    parser.add_argument("--cases", type=int, help="only the first so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        python = ensure_environment()
    except subprocess.CalledProcessError as error:
        print(f"the environment cannot be made: {error.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return 4
    scans = sorted(path for path in options.scans.glob("*.nii.gz") if not path.name.startswith("."))
    names = [str(path.resolve()) for path in scans[: options.cases]]
    model, threads = str(options.model.resolve()), ["--threads", str(options.threads)]
    with tempfile.TemporaryDirectory() as scratch:
        medseg = [sys.executable, "-m", "medseg"]
        ours, alone, exported = (f"{scratch}/{name}" for name in ("ours", "alone", "exported"))
        run([*medseg, "export", "-m", model, "--to", "onnx", "-o", exported, "-q"], cwd=ROOT)
        seconds = {
            "medseg": run([*medseg, "infer", *names, "-m", model, "-o", ours, "-q", *threads], cwd=ROOT)
        }
        seconds["alone"] = run(
            [python, f"{exported}/run.py", *names, "-o", alone, *threads], cwd=Path(scratch)
        )
        rows = [compare(Path(ours, Path(name).name), Path(alone, Path(name).name)) for name in names]
    found = {"agreement": min(row["agreement"] for row in rows), "seconds": seconds}
    ok = found["agreement"] >= TARGET["agreement"]
    document = {"name": "standalone", "rows": rows, "ratio": found, "target": TARGET, "ok": ok}
    print(json.dumps({**document, "rows": len(rows)}))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if ok else 1


def ensure_environment() -> str:
    """Return the interpreter of an environment with PACKAGES and without ABSENT."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    subprocess.run(pip, capture_output=True, text=True, check=True)
    probe = f"from importlib.util import find_spec; print([n for n in {ABSENT} if find_spec(n)])"
    found = subprocess.run([str(python), "-I", "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", f"the environment holds {found.stdout}"
    return str(python)


def run(command: list[str], cwd: Path) -> float:
    """Run a command and return its wall seconds."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} …: {done.stderr[-2000:]}")
    return round(time.perf_counter() - started, 1)


def compare(ours: Path, alone: Path) -> dict[str, Any]:
    """Return the share of equal voxels of two masks on one grid."""
    import nibabel as nib
    import numpy as np

    one, other = nib.load(ours), nib.load(alone)
    assert one.shape == other.shape and np.array_equal(one.affine, other.affine)
    a, b = np.asarray(one.dataobj), np.asarray(other.dataobj)
    return {"case": ours.name, "agreement": float((a == b).mean()), "labels": int((a > 0).sum())}


if __name__ == "__main__":
    sys.exit(main())
