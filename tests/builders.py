"""Small things whose content can be counted by hand, for the tests of core, config and data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.data.checks import Record
from medseg.data.plan import Normalization, Plan
from medseg.data.preprocess import preprocess_classes, preprocess_image
from medseg.data.settings import Augment, Channel, Data
from medseg.data.store import StoredCase, write_case
from medseg.io import write_labels, write_volume

# No deadline: a busy machine is slow. The same examples every time: a failure is there for everybody.
settings.register_profile("medseg", deadline=None, derandomize=True)
settings.load_profile("medseg")

Storage = tuple[tuple[int, int, int], tuple[bool, bool, bool]]  # axes permuted, then flipped

STORAGES: list[Storage] = list(product(permutations(range(3)), product((False, True), repeat=3)))
SPACING_MM = (0.75, 1.5, 3.0)
NOTHING = Augment(**{name: 0.0 for name in Augment.model_fields if name.endswith("_p")})


def make_rotation(degrees: Sequence[float]) -> NDArray[np.float64]:
    """Return a (3, 3) rotation around x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = ((1, 2), (2, 0), (0, 1))[axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def restore(array: NDArray[Any], geometry: Geometry, storage: Storage) -> tuple[NDArray[Any], Geometry]:
    """Store the same voxels in another order: the same values at the same world positions."""
    order, flips = storage
    array = array.transpose(*range(array.ndim - 3), *(array.ndim - 3 + axis for axis in order))
    array = array[(..., *(slice(None, None, -1 if flip else 1) for flip in flips))]
    shape = array.shape[-3:]
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        to_old[old, 3] = shape[new] - 1 if flip else 0
    return np.ascontiguousarray(array), Geometry(shape, geometry.affine @ to_old)


def geometries(longest: int = 6) -> st.SearchStrategy[Geometry]:
    """Anisotropic, rotated, perhaps mirrored grids away from the origin."""
    shapes = st.tuples(*[st.integers(1, longest)] * 3)
    spacings = st.tuples(*[st.floats(0.2, 8)] * 3)
    angles = st.tuples(*[st.floats(-180, 180)] * 3)
    origins = st.tuples(*[st.floats(-300, 300)] * 3)

    def build(shape: Any, spacing: Any, angle: Any, origin: Any, storage: Storage) -> Geometry:
        affine = np.eye(4)
        affine[:3, :3] = make_rotation(angle) * spacing
        affine[:3, 3] = origin
        return restore(np.zeros(shape), Geometry(shape, affine), storage)[1]

    return st.builds(build, shapes, spacings, angles, origins, st.sampled_from(STORAGES))


def positions(geometry: Geometry) -> NDArray[np.float64]:
    """Return the world position of every voxel, (3, I, J, K)."""
    index = np.indices(geometry.shape).reshape(3, -1).T
    return geometry.to_world(index).T.reshape(3, *geometry.shape)


def make_data(n_channels: int = 1, **changes: Any) -> Data:
    channels = {f"c{index}": Channel(pattern=f"*c{index}*") for index in range(n_channels)}
    if n_channels == 1:
        channels = {"c0": Channel()}
    return Data(**{"channels": channels, "labels": {1: "organ", 2: "lesion"}, **changes})


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3,
        "spacing_mm": SPACING_MM,
        "patch": (8, 6, 4),
        "batch_size": 2,
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "features": (4, 8),
        "normalization": (Normalization("none", shift=0.0, scale=1.0),),
        "mirror_axes": (),
        "rotate_axes": (0, 1, 2),
        "rotate_degrees": 30.0,
        "reasons": {},
    }
    return Plan(**{**values, **changes})


def make_record(name: str, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "patient": name,
        "pixels_sha256": f"pixels of {name}",
        "shape": (40, 30, 20),
        "spacing_mm": (1.0, 1.0, 1.0),
        "voxels": (900, 90, 10),
        "voxel_volume_mm3": 1.0,
        "intensities": ((1.0, 2.0, 3.0),),
    }
    return Record(name, **{**values, **changes})


def make_box_case(
    shape: tuple[int, int, int] = (9, 8, 7), seed: int = 0, spacing_mm: Sequence[float] = SPACING_MM
) -> tuple[Volume, Labels]:
    """Return noise without a zero, and a box of label 1 that holds one voxel of label 2."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 2:5, 2:4] = 1
    label[3, 3, 3] = 2
    image = np.random.default_rng(seed).integers(1, 1000, (1, *shape)).astype(np.int16)
    geometry = Geometry.of_spacing(shape, spacing_mm, (10, -20, 30))
    return Volume(image, geometry), Labels(label, geometry)


def write_pair(folder: Path, name: str, image: Volume, label: Labels | None) -> None:
    """Write folder/images/<name>.nii.gz and folder/labels/<name>.nii.gz."""
    write_volume(folder / "images" / f"{name}.nii.gz", image)
    if label is not None:
        write_labels(folder / "labels" / f"{name}.nii.gz", label)


def store_box_case(folder: Path, plan: Plan | None = None, **kwargs: Any) -> StoredCase:
    """Preprocess and store a box case as `folder`."""
    image, label = make_box_case(**kwargs)
    source = folder.parent / "source" / f"{folder.name}.nii.gz"
    write_volume(source, image)
    array, placement = preprocess_image(image, plan or make_plan())
    classes = preprocess_classes(label.array, placement)
    write_case(folder, "key", (array, classes), placement, label, source)
    return StoredCase(folder)
