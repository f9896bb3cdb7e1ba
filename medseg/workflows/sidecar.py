"""The sidecar OUT/<id>.json, written last: what lies beside it was made of what, how, and is whole.

Imports neither torch nor pydicom, so that every verb that writes volumes can share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.core.files import read_if_whole, sha256_of_file, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels
from medseg.data.cases import Case

PROBABILITIES = "_prob.nii.gz"  # how the file of probabilities beside a mask ends
DICOM_ID = re.compile(r"(dcm-[0-9a-f]{12})(?:-v(\d+))?")
"""The pseudonym of a series, and the number of a volume in it."""

SHA256 = re.compile(r"[0-9a-f]{64}")  # a sidecar of another tool may say anything


def find_versions(*packages: str) -> dict[str, str]:
    """Return the versions that decide an output's bits: medseg's and those of imported packages."""
    return {"medseg": __version__, **{name: import_module(name).__version__ for name in packages}}


def is_done(out: Path, case_id: str, outputs: Sequence[str], identity: Mapping[str, Any]) -> bool:
    """Say whether OUT/<id>.json tells of the same input, model, settings and of just these outputs.

    Of two runs into one folder one may write the volume and the other the sidecar, so contents are compared.
    """
    tree = read_if_whole(out / f"{case_id}.json")
    if not all(tree.get(key) == value for key, value in identity.items()):
        return False
    told = tree.get("outputs_sha256")
    try:
        return isinstance(told, dict) and hash_outputs(out, outputs).items() <= told.items()
    except OSError:
        return False


def find_model(masks: Mapping[str, Path]) -> str:
    """Return the hash of the model that made all masks, as their sidecars say; "" where that is not one.

    Args:
        masks: Id -> mask.
    """
    sidecars = [read_if_whole(path.with_name(f"{name}.json")) for name, path in masks.items()]
    models = {str(sidecar.get("model_sha256", "")) for sidecar in sidecars}
    return models.pop() if len(models) == 1 and all(map(SHA256.fullmatch, models)) else ""


def hash_outputs(out: Path, outputs: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each output but the sidecar; call it as soon as they are written."""
    return {name: sha256_of_file(out / name) for name in outputs if not name.endswith(".json")}


def clear_refused(out: Path, case: Case, code: str | None, suffixes: Sequence[str]) -> None:
    """Remove what earlier runs wrote of a case that is refused now.

    Args:
        out: OUT.
        case: The refused one.
        code: Why. A series that is refused as a whole takes the outputs of its volumes along; one that no
            volume was chosen of does not.
        suffixes: Of outputs and sidecar.
    """
    for suffix in suffixes:
        (out / f"{case.id}{suffix}").unlink(missing_ok=True)
    if case.is_pseudonymous and DICOM_ID.fullmatch(case.id) and code != "SERIES_AMBIGUOUS":
        for path in out.glob(f"{case.id}-v[0-9]*"):
            path.unlink(missing_ok=True)


def measure(labels: Labels, names: Mapping[int, str]) -> dict[str, Any]:
    """Return name and volume of every label, as the sidecar holds them."""
    grid = labels.geometry
    voxel_ml = None if grid.is_picture else grid.voxel_volume_mm3 / 1000  # a picture has no size
    values, counted = np.unique(labels.array, return_counts=True)
    counts = dict(zip(values.tolist(), counted.tolist(), strict=True))
    return {
        str(value): {"name": name, "volume_ml": voxel_ml and float(f"{counts.get(value, 0) * voxel_ml:.6g}")}
        for value, name in names.items()
    }


def describe_grid(grid: Geometry) -> dict[str, Any]:
    """Return a grid as the sidecar holds it."""
    return {"shape": grid.shape, "spacing_mm": grid.spacing_mm, "affine": grid.affine.tolist()}


def write_sidecar(
    path: Path,
    identity: Mapping[str, Any],
    grid: Geometry,
    *,
    outputs: Mapping[str, str],
    labels: Mapping[str, Any],
    warnings: Sequence[tuple[str, str]],
    **more: Any,
) -> None:
    """Write a sidecar; its name without .json is the case's id, unless `more` holds an `id`.

    Args:
        path: OUT/<id>.json.
        identity: input_sha256, model_sha256, settings and versions: what `is_done` compares.
        grid: Of the volume or mask beside it.
        outputs: Of `hash_outputs`.
        labels: Label value -> {"name", "volume_ml"}.
        warnings: (code, message) pairs.
        more: What only this verb has to say.
    """
    write_json(
        path,
        {
            "id": path.name.removesuffix(".json"),
            **identity,
            "outputs_sha256": dict(outputs),
            "grid": describe_grid(grid),
            "labels": dict(labels),
            "warnings": [{"code": code, "message": message} for code, message in warnings],
            "trust": None,
            **more,
        },
    )
