"""Preprocessed cases on disk: patches are read without decoding whole volumes.

    store/<id>/image.b2nd       (C, I, J, K) float16, canonical axes, compressed in blocks
    store/<id>/label.b2nd       (I, J, K) uint8 classes, 255 where ignored
    store/<id>/reference.nii.gz the label on the scan's own grid (.png for pictures): what masks are
                                compared with, and the header they are written with
    store/<id>/case.json        key, placement, points to centre patches on

A case's folder appears whole or not at all, and its bytes depend on nothing but the input and the
settings, so a killed and repeated run ends with the same bytes. `key` hashes both: a repeated run
skips what is there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import DataError
from medseg.core.files import atomic_path, make_folder, read_json, write_json
from medseg.core.geometry import Geometry
from medseg.core.volume import IGNORED, Labels
from medseg.data.preprocess import Placement
from medseg.io import mask_suffix, write_labels

if TYPE_CHECKING:
    from medseg.io.dicom.scan import Scan

BLOCK = 32  # edge of a compressed block in voxels: a patch touches few of them, each still packs well
ARRAYS = ("image.b2nd", "label.b2nd")
POINTS = 500  # voxels kept per class, to centre patches on


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case; arrays are opened when first used and sliced like numpy's."""

    folder: Path

    @property
    def id(self) -> str:
        """The case id."""
        return self.folder.name

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The content of case.json."""
        entry: dict[str, Any] = read_json(self.folder / "case.json")
        return entry

    @cached_property
    def image(self) -> Any:
        """(C, I, J, K) float16, lazily decoded."""
        return _open(self.folder / "image.b2nd")

    @cached_property
    def label(self) -> Any:
        """(I, J, K) uint8, lazily decoded."""
        return _open(self.folder / "label.b2nd")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxel counts of the preprocessed grid."""
        i, j, k = self.image.shape[1:]
        return i, j, k

    @property
    def reference(self) -> Path:
        """The label on the scan's own grid."""
        return next(self.folder.glob("reference.*"))

    @cached_property
    def placement(self) -> Placement:
        """How to get back to the scan's grid."""
        tree = self.entry["placement"]
        original, canonical, grid = (
            Geometry(tuple(tree[name]["shape"]), np.array(tree[name]["affine"])) for name in GRIDS
        )
        return Placement(original, canonical, tuple(tree["start"]), tuple(tree["stop"]), grid)

    @cached_property
    def points(self) -> dict[int, NDArray[np.int64]]:
        """Per class that is present, (N, 3) voxels of it."""
        return {int(label): self._unravel(flat) for label, flat in self.entry["points"].items()}

    @cached_property
    def labelled(self) -> NDArray[np.int64] | None:
        """(N, 3) voxels that are not ignored, background included; None where no voxel is ignored."""
        flat = self.entry.get("labelled")
        return self._unravel(flat) if flat else None

    def _unravel(self, flat: list[int]) -> NDArray[np.int64]:
        return np.stack(np.unravel_index(flat, self.entry["placement"]["grid"]["shape"]), axis=1)


GRIDS = ("original", "canonical", "grid")


def is_stored(store: Path, case_id: str, key: str) -> bool:
    """Say whether the case is there, whole, made from the same input with the same settings."""
    folder = store / case_id
    if not all((folder / name).exists() for name in ("case.json", *ARRAYS)):
        return False
    return StoredCase(folder).entry.get("key") == key


def write_case(
    folder: Path,
    key: str,
    arrays: tuple[NDArray[np.float16], NDArray[np.uint8]],
    placement: Placement,
    reference: Labels,
    like: Path | Scan,
) -> None:
    """Write a case's folder atomically, replacing an older one.

    Args:
        folder: store/<id>.
        key: Hash of input and settings.
        arrays: (C, I, J, K) image and (I, J, K) classes on the placement's grid.
        placement: The way back.
        reference: Stored label values on the original grid.
        like: The image whose header the reference gets; that of a DICOM scan is made of its grid alone.
    """
    image, label = arrays
    with atomic_path(folder) as temporary:
        make_folder(temporary)
        _write_array(temporary / "image.b2nd", image)
        _write_array(temporary / "label.b2nd", label)
        write_labels(temporary / f"reference{mask_suffix(like)}", reference, like)
        entry = {"key": key, "placement": _describe(placement), **_list_points(label)}
        write_json(temporary / "case.json", entry, compact=True)
        if folder.exists():
            shutil.rmtree(folder)


def _describe(placement: Placement) -> dict[str, Any]:
    grids: dict[str, Any] = {
        name: {"shape": getattr(placement, name).shape, "affine": getattr(placement, name).affine.tolist()}
        for name in GRIDS
    }
    return {**grids, "start": placement.start, "stop": placement.stop}


def _list_points(label: NDArray[np.uint8]) -> dict[str, Any]:
    """Return flat indices of a fixed random sample of voxels, per foreground class.

    Where some voxels are ignored also of all others together: of sparse labels most patches would else
    teach nothing.
    """
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORED + 1)).tolist()
    foreground = [value for value in present if 0 < value < IGNORED]
    found: dict[str, Any] = {"points": {str(v): _draw_points(label == v, v) for v in foreground}}
    if IGNORED in present:
        found["labelled"] = _draw_points(label != IGNORED, IGNORED)
    return found


def _draw_points(mask: NDArray[np.bool_], seed: int) -> list[int]:
    where = np.flatnonzero(mask)
    if where.size > POINTS:
        where = np.sort(np.random.default_rng(seed).choice(where, POINTS, replace=False))
    return [int(index) for index in where]


def _write_array(path: Path, array: NDArray[Any]) -> None:
    import blosc2

    spatial = tuple(min(BLOCK, n) for n in array.shape[-3:])
    blocks = (*(1,) * (array.ndim - 3), *spatial)
    chunks = (*(1,) * (array.ndim - 3), *(min(4 * BLOCK, n) for n in array.shape[-3:]))
    # One thread: the order in which several finish would show in the bytes.
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=chunks,
        blocks=blocks,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1, "typesize": array.dtype.itemsize},
    )
    path.chmod(0o600)


def _open(path: Path) -> Any:
    import blosc2

    if not path.exists():
        raise DataError(f"{path.name} is missing from the store", hint="run preprocess", code="STORE_DAMAGED")
    return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
