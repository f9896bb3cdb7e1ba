"""One verdict per case: look at it, or not, and why, in short sentences.

Each test is made so that of cases like the held-out ones about one in twenty is named by it; a case that
fits the training in every way may so be named, and one that is wrong in a way that neither its image nor
the network's doubt shows may not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.trust.fit import Trust
from medseg.inference.trust.observer import SUMS
from medseg.inference.trust.quality import LEVEL
from medseg.inference.trust.structure import ALPHA, Structure

MEANS = ("hit", "entropy", "disagreement")  # told per predicted voxel
NAMED = 3  # features of an outlier that its sentence names
Float = NDArray[np.float64]


def judge_case(
    trust: Trust,
    values: Sequence[str],
    sums_LS: Float,
    image_P: Float,
    *,
    voxel_mm3: float,
    has_disagreement: bool = False,
    is_picture: bool = False,
    modality: str = "",
) -> dict[str, Any]:
    """Return what a sidecar holds under "trust".

    Args:
        trust: Of the model.
        values: (L,) keys of the structures: label values, or names of regions.
        sums_LS: Of `observer.Observer`.
        image_P: Of `image.describe_image`.
        voxel_mm3: Of the preprocessed grid.
        has_disagreement: Whether several networks or mirrorings were compared.
        is_picture: Whether pixels have no size, and so structures no volume.
        modality: Of the scan, as in `Trust.modalities`; "" where it is not known.
    """
    distance, p, unusual = trust.outlier.judge(image_P)
    reasons = [_word_outlier(p, unusual)] if p <= ALPHA else []
    if modality and trust.modalities and modality not in trust.modalities:
        reasons.insert(0, f"the scan is {modality}; those of training were {', '.join(trust.modalities)}")
    told = {}
    for value, structure, sums in zip(values, trust.structures, sums_LS, strict=True):
        told[value] = _describe(structure, sums, voxel_mm3, is_picture=is_picture)
        if not has_disagreement:
            told[value]["disagreement"] = None
        reasons += _find_reasons(structure, sums, voxel_mm3, is_picture=is_picture)
    return {
        "look": bool(reasons),
        "reasons": reasons,
        "level": LEVEL,
        "temperatures": list(trust.temperatures),
        "outlier": {"distance": _round(distance), "p": _round(p), "unusual": unusual},
        "structures": told,
    }


def _describe(structure: Structure, sums: Float, voxel_mm3: float, *, is_picture: bool) -> dict[str, Any]:
    row = dict(zip(SUMS, sums.tolist()))
    dice = structure.predict_dice(sums) or (None, None, None)
    volume = structure.predict_volume(sums, voxel_mm3)
    ml = (None, None, None) if volume is None or is_picture else [end / 1000 for end in volume]
    inside = {name: row[name] / row["voxels"] if row["voxels"] else None for name in MEANS}
    numbers = zip(
        ("dice", "dice_low", "dice_high", "volume_ml", "volume_ml_low", "volume_ml_high"), (*dice, *ml)
    )
    return {
        "name": structure.name,
        **{name: _round(value) for name, value in numbers},
        "confidence": _round(inside["hit"]),
        "entropy": _round(inside["entropy"]),
        "disagreement": _round(inside["disagreement"]),
    }


def _find_reasons(structure: Structure, sums: Float, voxel_mm3: float, *, is_picture: bool) -> list[str]:
    """Return why a structure should be looked at."""
    if not sums[0]:
        if structure.present < 1 - ALPHA:
            return []
        return [f"no {structure.name} was found; {structure.present:.0%} of the held-out cases have it"]
    reasons = []
    said = structure.predict_dice(sums)
    if said and said[0] < structure.low_dice:
        reasons.append(
            f"{structure.name}: predicted Dice {said[0]:.2f} ({said[1]:.2f} to {said[2]:.2f}); "
            f"{1 - ALPHA:.0%} of the held-out cases reach {structure.low_dice:.2f}"
        )
    rim = float(sums[SUMS.index("rim")]) / float(sums[0])
    if rim > structure.high_rim:
        reasons.append(
            f"{structure.name}: {rim:.1%} of it lies at the border of the image; "
            f"{1 - ALPHA:.0%} of the held-out cases have at most {structure.high_rim:.1%}"
        )
    size, (low, high) = float(sums[0]) * voxel_mm3, structure.volumes_mm3
    if not low <= size <= high:
        unit, scale = ("pixels", 1) if is_picture else ("ml", 1000)
        reasons.append(
            f"{structure.name}: {size / scale:.3g} {unit}; "
            f"references of held-out cases have {low / scale:.3g} to {high / scale:.3g}"
        )
    return reasons


def _word_outlier(p: float, unusual: dict[str, float]) -> str:
    text = f"the case is unlike the training cases (p = {p:.3f})"
    named = [f"{name} {z:+.1f} SD" for name, z in list(unusual.items())[:NAMED]]
    return f"{text}: {', '.join(named)}" if named else text


def _round(value: float | None) -> float | None:
    """Return four significant digits; what is not finite is not known."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
