"""One scan after the other: preprocessing, windows, labels on the scan's own grid, cleanup."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from .cleanup import clean
from .network import Network, load_network, predict
from .resample import choose_orders, normalize, resample
from .scans import Canonical, RefusedError, find_spacing, read_scan, write_mask

Array = NDArray[Any]
USAGE = """Segment NIfTI scans with the model in this folder, as `medseg infer` does, but without medseg.

SCAN is a .nii or .nii.gz file; the channels of one scan are one 4D file, or files joined by commas.
The mask is OUT/<id>.nii.gz, on the scan's own grid; the id is the file's name without `_0000`.
All numbers are read from pipeline.json.
"""


def segment(array: Array, affine: Array, pipeline: Any, networks: Sequence[Network]) -> Array:
    """Return the (i, j, k) mask of stored values of a scan (C, i, j, k)."""
    if len(array) != len(pipeline["channels"]):
        raise RefusedError(f"{len(array)} channels where the model has {len(pipeline['channels'])}")
    way = Canonical(affine)
    image, spacing = way.enter(array), find_spacing(way.affine)
    used = np.nonzero((image != 0).any(0))
    box = tuple(slice(int(n.min()), int(n.max()) + 1) if n.size else slice(None) for n in used)
    image, whole = image[(slice(None), *box)], image.shape[1:]
    target = list(pipeline["spacing_mm"])
    if pipeline["dims"] == 2:
        target[2] = spacing[2]
    shape = [
        n if n == 1 or abs(old / new - 1) < 1e-3 else max(1, round(n * old / new))
        for n, old, new in zip(image.shape[1:], spacing, target)
    ]
    orders = choose_orders(pipeline, spacing, target, pipeline["resampling"]["image_order"])
    normal = [normalize(channel, step) for channel, step in zip(image, pipeline["normalization"])]
    ready = np.stack([resample(channel, shape, orders, clips=True) for channel in normal])
    logits = predict(np.clip(ready, -65504, 65504).astype(np.float16).astype(np.float32), pipeline, networks)
    scale = np.array([*(a / b for a, b in zip(image.shape[1:], shape)), 1.0])
    reached = find_spacing(way.affine * scale)
    orders = choose_orders(pipeline, spacing, reached, pipeline["resampling"]["logits_order"])
    classes = np.zeros(whole, np.uint16)
    inside, best = classes[box], np.full(image.shape[1:], -np.inf, np.float32)
    for index, logit in enumerate(logits):
        score = resample(logit, image.shape[1:], orders)
        if pipeline["regions"]:
            inside[score > 0] = pipeline["regions"][index]["paints"]
        else:
            inside[score > best] = index
            np.maximum(best, score, out=best)
    mask = np.array(pipeline["class_values"], np.uint16)[way.leave(classes)]
    mask = clean(mask, pipeline["postprocess"], affine)
    return mask.astype(np.uint8) if mask.max() < 256 else mask


def check_folder(folder: Path) -> None:
    """Compare every file with its checksum."""
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise RefusedError(f"{name} does not match its checksum: copy the folder again")


def name_scan(scan: str) -> str:
    """Return the id of a scan: the name of its first file, without the number of its channel."""
    name = Path(scan.partition(",")[0]).name.removesuffix(".gz").removesuffix(".nii")
    return name.removesuffix("_0000") or name


def main(folder: Path) -> int:
    """Segment every scan; 0: all done, 3: some were refused."""
    parser = argparse.ArgumentParser(description=USAGE, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scans", nargs="+", metavar="SCAN")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    names = [name_scan(scan) for scan in options.scans]
    if twice := {name for name in names if names.count(name) > 1}:
        parser.error(f"several scans are called {min(twice)}: run them into folders of their own")
    check_folder(folder)
    pipeline = json.loads((folder / "pipeline.json").read_text())
    networks = [load_network(folder / name, options.threads) for name in pipeline["networks"]]
    options.out.mkdir(parents=True, exist_ok=True)
    refused = 0
    for scan, name in zip(options.scans, names):
        try:
            array, affine, header = read_scan(scan.split(","))
            mask = segment(array, affine, pipeline, networks)
            write_mask(options.out / f"{name}.nii.gz", mask, header)
            print(f"{name}: done")
        except (RefusedError, OSError, ImageFileError) as error:
            refused += 1
            print(f"{name}: {error}", file=sys.stderr)
    return 3 if refused else 0
