"""Pages to open in a browser: phantoms whose grey values say where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.geometry import Geometry
from medseg.tracking.overlay import PAIRS
from medseg.tracking.review import Channel, Entry, Scene, cut_scene, flag_cases, open_page

SHAPE, SPACING_MM = (24, 20, 12), (1.0, 1.0, 2.5)
CODE, FORMULA = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>", "=cmd()"
LABELS = {1: "organ", 2: CODE}


def make_scene(unit: str = "", *, is_shifted: bool = True) -> Scene:
    """Return a box (1) around a smaller one (2) in grey 20 k, and 35 more on the patient's right.

    The prediction is the box one voxel further to the patient's right, of which 1 is drawn only.
    """
    i, _, k = np.indices(SHAPE)
    image = (20 * k + 35 * (i >= 12)).astype(np.int16)[None]
    reference = np.zeros(SHAPE, np.uint8)
    reference[8:16, 6:14, 4:8] = 1
    reference[10:12, 8:10, 5:7] = 2
    predicted = np.roll(reference, int(is_shifted), axis=0)
    geometry = Geometry.of_spacing(SHAPE, SPACING_MM)
    return Scene(geometry, predicted, reference, image, channels=[Channel("ct", unit)])


def make_picture(channels: int) -> Scene:
    """Return a picture that is bright in its first rows; of three channels only in the first."""
    image = np.zeros((channels, 30, 40, 1), np.uint8)
    image[0, :15] = 200
    image[:, -1, -1] = 255
    mask = np.zeros((30, 40, 1), np.uint8)
    mask[10:20, 5:10] = 1
    return Scene(
        Geometry(mask.shape, np.eye(4)), mask, None, image, channels=[Channel(n) for n in "rgb"[:channels]]
    )


def make_rows(dice: float) -> list[dict[str, Any]]:
    other = {"state": "present", "hd95_mm": 20 * (1 - dice), "nsd": dice, "volume_error_ml": 1.0}
    return [{"label": str(value), "name": name, "dice": dice, **other} for value, name in LABELS.items()]


def write_page(
    path: Path, scenes: dict[str, Scene], scores: dict[str, float | None], total: int = 0, **more: Any
) -> Path:
    """Write a page of cases, with `more` in its index; a score of None is a case that failed."""
    entries = [
        Entry(name, error="NII_CRC: damaged")
        if score is None
        else Entry(name, make_rows(score), {"organ": 2.5}, p=score)
        for name, score in scores.items()
    ]
    cases = flag_cases(entries)
    with open_page(path, f"Review {CODE}") as writer:
        for case in cases:
            scene = scenes.get(case["id"])
            case["block"] = None
            if scene is not None:
                case["block"] = writer.add_case(cut_scene(scene, list(LABELS), 10**6))
                case["unit"] = "px" if scene.geometry.is_picture else "mm"
        writer.finish(
            {
                "title": CODE,
                "verdict": FORMULA,
                "notes": [CODE],
                "facts": [[FORMULA, CODE]],
                "limits": ["Not a medical device."],
                "labels": [{"value": value, "name": name} for value, name in LABELS.items()],
                "colours": [list(pair) for pair in PAIRS],
                "cases": cases,
                "total": total or len(cases),
                **more,
            }
        )
    return path
