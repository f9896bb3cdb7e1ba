"""A cohort so small that a whole run takes seconds, its settings, and the command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from typer.testing import CliRunner

from medseg.cli import app
from medseg.core.files import sha256_of_file, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import write_labels, write_volume

IDS = tuple(f"subject-{letter}7" for letter in "abcdef")
SHAPE = (20, 18, 10)
SPACING_MM = (1.5, 1.5, 3.0)
SETTINGS = """\
pipeline: phantom_ct
device: cpu
threads: 1
workers: 1
split: {folds: 2}
grid: {patch: [16, 16, 8], batch_size: 2}
model: {name: strided_unet, options: {features: [4, 8, 8]}}
train: {epochs: 2, iterations_per_epoch: 2, validate_every: 1, validate_cases: 1, amp: "off"}
"""


def make_case(seed: int) -> tuple[Volume, Labels]:
    """Return a bright box (1) that holds a brighter one (2) in noise, somewhere."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    i, j, k = rng.integers(2, 5, 3)
    label[i : i + 9, j : j + 8, k : k + 4] = 1
    label[i + 3 : i + 6, j + 2 : j + 5, k + 1 : k + 3] = 2
    image = rng.normal(0, 20, SHAPE) + np.array([-200.0, 60.0, 300.0])[label]
    geometry = Geometry.of_spacing(SHAPE, SPACING_MM, rng.uniform(-50, 50, 3))
    return Volume(image.astype(np.int16)[None], geometry), Labels(label, geometry)


def write_cohort(folder: Path, ids: tuple[str, ...] = IDS) -> Path:
    """Write labelled cases in MSD layout."""
    entries = []
    for seed, name in enumerate(ids):
        image, label = make_case(seed)
        write_volume(folder / "imagesTr" / f"{name}.nii.gz", image)
        write_labels(folder / "labelsTr" / f"{name}.nii.gz", label)
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    write_json(folder / "dataset.json", {"training": entries})
    return folder


def write_settings(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(SETTINGS)
    return path


def medseg(*arguments: object) -> Result:
    """Run a command in this process; an internal error is raised, every other end is a result."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(result: Result) -> dict[str, Any]:
    """Return the JSON document that a command printed."""
    tree = json.loads(result.stdout)
    assert isinstance(tree, dict)
    return tree


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
