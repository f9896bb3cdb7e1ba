"""Whatever the storage order of a scan, its mask is the same.

    python benchmarks/orientations.py --model out/hippo --data $MEDSEG_DATA --json FILE

Two parts, both through `medseg infer`: a brain that is stored in all 48 axis orientations
(`nifti_space`), and one labelled hippocampus case that is re-stored here in all 48. Rows hold how many
distinct masks remain once brought to one orientation (1 is right), how many masks differ from their input
in shape, affine or q/sform codes (0 is right), foreground voxels and Dice.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medseg.core.volume import to_canonical
from medseg.io import read_labels


def restore_in_48(image: Path, folder: Path) -> None:
    """Write one image in every axis order and direction; voxels keep their place in the world."""
    source = nibabel.load(image)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            name = "".join(f"{axis}{'+' if sign > 0 else '-'}" for axis, sign in zip(order, signs))
            moved = source.as_reoriented(np.array(list(zip(order, signs)), dtype=float))
            nibabel.save(moved, folder / f"{name}.nii.gz")


def infer(images: Path, model: Path, out: Path) -> None:
    """Run `medseg infer`; a failure ends the benchmark."""
    command = [sys.executable, "-m", "medseg", "infer", str(images), "-m", str(model), "-o", str(out)]
    subprocess.run(command, check=True)


def compare(images: Path, masks: Path) -> dict[str, Any]:
    """Count distinct masks in one orientation, and masks that do not lie on their input's grid."""
    hashes, off_grid, voxels = set(), 0, []
    for path in sorted(images.glob("*.nii.gz")):
        labels = read_labels(masks / path.name)
        canonical, _ = to_canonical(labels.array, labels.geometry)
        hashes.add(hashlib.sha256(canonical.astype(np.uint16).tobytes()).hexdigest())
        voxels.append(int((canonical > 0).sum()))
        source, mask = nibabel.load(path), nibabel.load(masks / path.name)
        codes = [
            [int(image.header[f"{form}_code"]) for form in ("qform", "sform")] for image in (source, mask)
        ]
        same = source.shape[:3] == mask.shape and np.array_equal(source.affine, mask.affine)
        off_grid += not (same and codes[0] == codes[1])
    return {"masks": len(voxels), "distinct": len(hashes), "off_grid": off_grid, "voxels": min(voxels)}


def mean_dice(mask: Path, reference: Path) -> float:
    """Return the mean Dice of the labels of a reference, after bringing both to one orientation."""
    pair = [read_labels(path) for path in (mask, reference)]
    found, wanted = (to_canonical(labels.array, labels.geometry)[0] for labels in pair)
    labels = np.unique(wanted)[1:]
    dice = [
        2 * ((found == n) & (wanted == n)).sum() / ((found == n).sum() + (wanted == n).sum()) for n in labels
    ]
    return float(np.mean(dice))


def main() -> int:
    """Run both parts and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--case", default="hippocampus_001")
    parser.add_argument("--skip-brain", action="store_true", help="only the hippocampus case (one minute)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if not options.skip_brain:
            infer(options.data / "nifti_space", options.model, work / "space")
            rows.append({"name": "brain", **compare(options.data / "nifti_space", work / "space")})
        original = options.data / "hippocampus" / "imagesTr" / f"{options.case}.nii.gz"
        label = options.data / "hippocampus" / "labelsTr" / f"{options.case}.nii.gz"
        (work / "images").mkdir()
        restore_in_48(original, work / "images")
        infer(work / "images", options.model, work / "masks")
        infer(original, options.model, work / "original")
        dices = {round(mean_dice(mask, label), 6) for mask in (work / "masks").glob("*.nii.gz")}
        own = round(mean_dice(work / "original" / original.name, label), 6)
        row = compare(work / "images", work / "masks")
        rows.append({"name": options.case, **row, "dice": sorted(dices), "dice_original": own})
    is_right = [row["masks"] == 48 and row["distinct"] == 1 and row["off_grid"] == 0 for row in rows]
    case = rows[-1]
    ok = all(is_right) and case["voxels"] >= 200 and case["dice"] == [case["dice_original"]]
    result = {
        "name": "orientations",
        "rows": rows,
        "ratio": {},
        "target": {"distinct": 1, "off_grid": 0, "voxels": 200},
        "ok": bool(ok),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
