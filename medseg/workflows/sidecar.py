"""The sidecar OUT/<id>.json, written last: what lies beside it was made of what, how, and is whole.

Imports neither torch nor pydicom, so that every verb that writes volumes can share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.core.errors import DataError
from medseg.core.files import read_if_whole, sha256_of, sha256_of_file, write_json
from medseg.core.geometry import Geometry


def hash_files(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file's bytes, or over those of several in their order.

    "" where one is missing or unreadable: reading the case says so, with a code.
    """
    try:
        hashes = [sha256_of_file(path) for path in files]
    except (OSError, DataError):
        return ""
    return hashes[0] if len(hashes) == 1 else sha256_of(hashes)


def find_versions(*packages: str) -> dict[str, str]:
    """Return the versions that decide an output's bits: medseg's and those of imported packages."""
    return {"medseg": __version__, **{name: import_module(name).__version__ for name in packages}}


def is_done(out: Path, case_id: str, outputs: Sequence[str], identity: Mapping[str, Any]) -> bool:
    """Say whether all outputs are there and OUT/<id>.json tells of the same input, model and settings."""
    if not all((out / name).exists() for name in outputs):
        return False
    tree = read_if_whole(out / f"{case_id}.json")
    return all(tree.get(key) == value for key, value in identity.items())


def describe_grid(grid: Geometry) -> dict[str, Any]:
    """Return a grid as the sidecar holds it."""
    return {"shape": grid.shape, "spacing_mm": grid.spacing_mm, "affine": grid.affine.tolist()}


def write_sidecar(
    path: Path,
    identity: Mapping[str, Any],
    grid: Geometry,
    *,
    labels: Mapping[str, Any],
    warnings: Sequence[tuple[str, str]],
    **more: Any,
) -> None:
    """Write a sidecar; its name without .json is the case's id.

    Args:
        path: OUT/<id>.json.
        identity: input_sha256, model_sha256, settings and versions: what `is_done` compares.
        grid: Of the volume or mask beside it.
        labels: Label value -> {"name", "volume_ml"}.
        warnings: (code, message) pairs.
        more: What only this verb has to say.
    """
    write_json(
        path,
        {
            "id": path.name.removesuffix(".json"),
            **identity,
            "grid": describe_grid(grid),
            "labels": dict(labels),
            "warnings": [{"code": code, "message": message} for code, message in warnings],
            "trust": None,
            **more,
        },
    )
