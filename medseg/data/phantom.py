"""Synthetic patients: scans whose labels cannot be told apart by intensity alone.

Two kinds. `ct`: a body with an organ (label 1) that holds lesions (label 2), anisotropic voxels, HU.
An unlabelled double, larger than the organ, has its intensity and lesions of its own on the other side,
so a threshold finds both; position decides. `xray`: two dark lungs (label 1) in a bright chest, amid a
background and a bowel as dark as they are. No window of intensities scores a Dice above 0.6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.files import make_folder, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import write_labels, write_volume

SHAPE = (56, 48, 24)
SPACING_MM = (2.0, 2.0, 4.0)
AIR, FAT, ORGAN, LESION, BONE = -1000.0, -80.0, 60.0, -20.0, 400.0  # HU
NOISE = 30.0  # HU, blurred a little as a reconstruction kernel does


def write_ct_cohort(folder: Path, n_cases: int, seed: int) -> None:
    """Write a CT-like cohort in MSD layout."""
    images, labels = make_folder(folder / "imagesTr"), make_folder(folder / "labelsTr")
    training = []
    for index in range(n_cases):
        image, label = make_ct(np.random.default_rng([seed, index]))
        name = f"phantom_{index:03d}.nii.gz"
        write_volume(images / name, image)
        write_labels(labels / name, label, images / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(
        folder / "dataset.json",
        {
            "name": "phantom",
            "description": "synthetic CT-like scans; no patient",
            "licence": "CC0-1.0",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "organ", "2": "lesion"},
            "numTraining": n_cases,
            "training": training,
        },
    )


def make_ct(rng: np.random.Generator) -> tuple[Volume, Labels]:
    """Return one CT-like scan (1, 56, 48, 24) float32 HU and its labels, 2 x 2 x 4 mm."""
    from scipy.ndimage import gaussian_filter

    geometry = Geometry.of_spacing(SHAPE, SPACING_MM, rng.uniform(-60, 60, 3))
    middle = (np.array(SHAPE) - 1) / 2 * SPACING_MM
    hu = np.full(SHAPE, AIR)
    body = _ellipsoid(middle, np.array([50.0, 40.0, 60.0]) * rng.uniform(0.95, 1.05, 3))
    hu[body] = FAT
    hu[_ellipsoid(middle + (0, -24, 0), (8, 8, 100))] = BONE
    # The organ lies on the patient's right (high i); its double on the left is not labelled.
    organ_at = middle + rng.uniform(-4, 4, 3) + (22, 4, 0)
    radius = np.array([19.0, 21.0, 25.0]) * rng.uniform(0.85, 1.1, 3)
    organ = _ellipsoid(organ_at, radius) & body
    double_at = middle + rng.uniform(-4, 4, 3) + (-24, 2, 0)
    double = _ellipsoid(double_at, radius * rng.uniform(1.12, 1.22, 3)) & body & ~organ
    hu[organ | double] = ORGAN
    lesion = np.zeros(SHAPE, bool)
    for at in (organ_at, double_at):
        for _ in range(int(rng.integers(1, 3))):
            shift = rng.uniform(-9, 9, 3)
            spot = _ellipsoid(at + shift, np.full(3, rng.uniform(7.5, 11.0)))
            hu[spot & (organ | double)] = LESION
            lesion |= spot & organ
    noise = gaussian_filter(rng.standard_normal(SHAPE), (0.6, 0.6, 0.3))
    hu += noise / noise.std() * NOISE
    label = np.where(lesion, 2, organ).astype(np.uint8)
    return Volume(hu.astype(np.float32)[None], geometry), Labels(label, geometry)


def _ellipsoid(centre_mm: Any, radius_mm: Any) -> NDArray[np.bool_]:
    axes = [np.arange(n) * step for n, step in zip(SHAPE, SPACING_MM)]
    parts = [((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre_mm, radius_mm)]
    return np.asarray(parts[0][:, None, None] + parts[1][:, None] + parts[2] <= 1)


def write_xray_cohort(folder: Path, n_cases: int, seed: int) -> None:
    """Write a chest-X-ray-like cohort as two folders of 8-bit PNG files, `images` and `masks`."""
    for index in range(n_cases):
        gray, mask = make_xray(np.random.default_rng([seed, index]))
        geometry = Geometry((*gray.shape, 1), np.eye(4))
        name = f"phantom_{index:03d}.png"
        write_labels(folder / "images" / name, Labels(gray[..., None], geometry), None)
        write_labels(folder / "masks" / name, Labels(mask[..., None] * np.uint8(255), geometry), None)


def make_xray(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one 8-bit radiograph (128, 112), rows then columns, and its lung mask (0 or 1)."""
    from scipy.ndimage import gaussian_filter

    row, column = np.mgrid[:128, :112].astype(float)

    def disc(at: tuple[float, float], radius: tuple[float, float]) -> NDArray[np.bool_]:
        return np.asarray(((row - at[0]) / radius[0]) ** 2 + ((column - at[1]) / radius[1]) ** 2 <= 1)

    gray = np.where(disc((72, 55.5), (70, 50)), 150.0, 70.0)
    top = 55 + rng.uniform(-5, 5)
    right = disc((top, 33 + rng.uniform(-3, 3)), (36 + rng.uniform(-4, 4), 15 + rng.uniform(-2, 2)))
    left = disc((top, 79 + rng.uniform(-3, 3)), (34 + rng.uniform(-4, 4), 14 + rng.uniform(-2, 2)))
    gray[right | left] = 70
    gray[disc((112, 66 + rng.uniform(-8, 8)), (11, 28))] = 70  # bowel gas: lung's intensity, not lung
    gray[:, 52:60] = 190  # spine
    ribs = (np.sin(row / 4.0 + np.abs(column - 55) / 12) > 0.8) & disc((64, 55.5), (60, 48))
    gray[ribs] += 35
    gray = gaussian_filter(gray, 1.0) + rng.standard_normal(gray.shape) * 12
    return np.clip(gray, 0, 255).astype(np.uint8), ((right | left) & ~(np.abs(column - 55.5) < 4)).astype(
        np.uint8
    )


KINDS = {"ct": write_ct_cohort, "xray": write_xray_cohort}
