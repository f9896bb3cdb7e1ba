"""What README.md and docs/*.md show, and a shell that runs it as a reader would, only shorter.

A fence's first words say how: `bash run` and `python run` are executed, `csv layout NAME` and
`text layout NAME` list files of a cohort that must be recognised as NAME, plain `bash` holds make targets,
plain `text` is prose. Training is shortened here, by a function around `medseg`, not in the documents.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = {
    "train.epochs": 1,
    "train.iterations_per_epoch": 1,
    "train.validate_cases": 0,
    "model.options.features": "[4,4,4,4,4,4]",
    "infer.overlap": 0,
    "workers": 1,
    "threads": 1,  # the cores may be shared
}
SHORT = " ".join(f"--set {key}={value}" for key, value in TINY.items())
# `ui` serves until it is ended: here until its link answers, with a page.
PREAMBLE = f"""set -euo pipefail
tiny="{SHORT}"
medseg() {{
    case "$1" in
        check|plan|preprocess) command medseg "$@" $tiny ;;
        run) command medseg "$@" $tiny ${{TRACKING---no-tracking}} ;;
        infer) command medseg "$@" --threads 1 ;;
        ui) command medseg "$@" >ui.txt 2>ui.log & serving=$!
            until grep -q http ui.txt; do kill -0 $serving || {{ cat ui.log >&2; exit 1; }}; sleep 0.1; done
            python -c 'import sys, urllib.request as u
print(u.build_opener(u.ProxyHandler({{}})).open(sys.argv[1]).status)' "$(grep -o 'http[^ ]*' ui.txt)" >&2
            kill $serving; wait $serving ;;
        *) command medseg "$@" ;;
    esac
}}
"""
# MONAI imports these where it finds them, for seconds a command; tests alone install them.
LEAN = "import sys\nsys.modules.update(transformers=None, skimage=None)\n"


def blocks(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text(encoding="utf-8"))


def list_commands(paths: list[Path]) -> list[str]:
    """Return every line of a block that is executed, continued lines in one."""
    found = [text for path in paths for kind, text in blocks(path) if kind == "bash run"]
    return [line.strip() for text in found for line in text.replace("\\\n", "").splitlines()]


def make_environment(folder: Path, **changes: str) -> Mapping[str, str]:
    """Return an environment whose tracking folder lies in `folder`, and whose commands start sooner."""
    lean = folder / "lean"
    lean.mkdir(exist_ok=True)
    (lean / "sitecustomize.py").write_text(LEAN)
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {
        **os.environ,
        "MEDSEG_HOME": str(folder / "home"),
        "MLFLOW_TRACKING_URI": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(lean), *before]),
        **changes,
    }


def run_bash(text: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run blocks in a folder; training is short and, unless TRACKING is set to "", not tracked."""
    command = ["bash", "-c", PREAMBLE + text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, f"{text}\n{done.stderr[-3000:]}"


def run_python(text: str, page: str, names: dict[str, object]) -> None:
    """Run a block in this process, in the current folder; the blocks of a page share their names."""
    exec(compile(text, page, "exec"), names)  # noqa: S102
