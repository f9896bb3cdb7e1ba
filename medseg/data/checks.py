"""Look at every case of a cohort once: is it usable, and what is it like?

One pass per case gives both the verdict and the numbers that the fingerprint needs, so volumes are
decoded once. A case that fails is quarantined with its reason; the others go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.core.errors import DataError, MedsegError
from medseg.core.files import sha256_of, sha256_of_file
from medseg.core.volume import IGNORED, to_canonical
from medseg.data.cases import Case
from medseg.data.loading import load_case, tell_notes
from medseg.data.settings import Data
from medseg.io import list_files

if TYPE_CHECKING:
    from medseg.io.dicom.labels.label import DicomLabel
    from medseg.io.dicom.scan import Scan

SAMPLES = 1000  # foreground intensities kept per case and channel


@dataclass(frozen=True)
class Record:
    """What is known of one case after the check. Plain data: it is stored as JSON.

    Args:
        shape, spacing_mm: (3,) of the canonical grid, cropped to the non-zero box.
        voxels: Voxel count per class, background first; ignored voxels are not counted.
        intensities: Per channel, a sorted sample of the foreground's values.
    """

    id: str
    patient: str
    input_sha256: str = ""
    label_sha256: str = ""
    pixels_sha256: str = ""
    shape: tuple[int, ...] = ()
    stored_shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    voxels: tuple[int, ...] = ()
    voxel_volume_mm3: float = 0.0
    intensities: tuple[tuple[float, ...], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    code: str = ""
    message: str = ""
    hint: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether the case passed."""
        return not self.code

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return dict(vars(self))


def hash_files(case: Case) -> tuple[str, str]:
    """Return the SHA-256 over all image files, and that of the label file ("" without one).

    Those of DICOM objects hold too what is made of the files.
    """
    images = [hash_image(image) for image in case.images]
    label = hash_image(case.label) if case.label else ""
    return (images[0] if len(images) == 1 else sha256_of(images)), label


def require_unchanged(case: Case, input_sha256: str) -> None:
    """Refuse a case whose image files are no longer those that were hashed before they were read.

    Raises:
        DataError: FILE_CHANGED.
    """
    if hash_files(case)[0] != input_sha256:
        raise DataError(
            "a file changed while it was read", hint="run it again once it is complete", code="FILE_CHANGED"
        )


def hash_image(image: Path | Scan | DicomLabel) -> str:
    """Return the SHA-256 over the files of one image; of a DICOM object also what is made of them.

    "" where one is missing or unreadable: reading it says so, with a code.
    """
    try:
        hashes = [sha256_of_file(part) for part in list_files(image)]
    except (OSError, DataError):
        return ""
    if not isinstance(image, Path):
        hashes.append(_hash_choice(image))
    return hashes[0] if len(hashes) == 1 else sha256_of(hashes)


def _hash_choice(image: Scan | DicomLabel) -> str:
    """Hash what is made of the files of a DICOM object: which frames or structures, on which grid.

    All that reading takes from the headers is in it, so that a file which was replaced after its header was
    read never gets the hash of the new file alone.
    """
    from medseg.io.dicom.labels.label import DicomLabel

    if isinstance(image, DicomLabel):
        return sha256_of([image.rois, {str(value): name for value, name in image.labels.items()}])
    numbers = {path: number for number, path in enumerate(image.files)}
    frames = [
        (numbers[frame.instance.path], frame.index, frame.slope, frame.intercept) for frame in image.frames
    ]
    stored = {numbers[frame.instance.path]: repr(frame.instance.pixels) for frame in image.frames}
    return sha256_of(
        [frames, sorted(stored.items()), image.geometry.affine.tolist(), image.repair, image.suv_factor]
    )


def check_case(case: Case, settings: Data, seed: int = 0) -> Record:
    """Read a labelled case and say whether it is usable; never raises for a bad case."""
    try:
        return _describe(case, settings, seed)
    except MedsegError as error:
        if not isinstance(error, DataError):
            raise
        return Record(case.id, case.patient, code=error.code, message=error.message, hint=error.hint)


def _describe(case: Case, settings: Data, seed: int) -> Record:
    if case.error is not None:
        raise case.error
    if case.label is None:
        raise DataError(
            "no label file was found for this image", hint="label it or take it out", code="LABEL_MISSING"
        )
    input_sha256, label_sha256 = hash_files(case)
    notes: set[str] = set()
    loaded = load_case(case, settings, notes)
    if loaded.classes is None:  # for the type checker: the label was read above
        raise DataError("no label", code="LABEL_MISSING")
    image, grid = to_canonical(loaded.image.array, loaded.image.geometry)
    classes, _ = to_canonical(loaded.classes.array, loaded.image.geometry)
    start, stop = nonzero_box(image)
    n_classes = len(settings.labels) + 1
    voxels = np.bincount(classes.ravel(), minlength=n_classes)[:n_classes]  # without ignored ones
    if not voxels.any():
        raise DataError(
            "every voxel of the label is ignored", hint="label some, or take it out", code="LABEL_IGNORED"
        )
    warnings = [*case.warnings, *tell_notes(notes)]
    if voxels[1:].sum() == 0:
        warnings.append(("LABEL_EMPTY", "the label holds background only"))
    if float(image.min()) == float(image.max()):
        raise DataError(
            f"every voxel of the image is {image.flat[0]:g}", hint="export it again", code="IMAGE_CONSTANT"
        )
    return Record(
        case.id,
        case.patient,
        input_sha256=input_sha256,
        label_sha256=label_sha256,
        pixels_sha256=_hash_pixels(image),
        shape=tuple(int(b - a) for a, b in zip(start, stop)),
        stored_shape=loaded.image.geometry.shape,
        spacing_mm=grid.spacing_mm,
        orientation=loaded.image.geometry.orientation,
        voxels=tuple(voxels.tolist()),
        voxel_volume_mm3=round(grid.voxel_volume_mm3, 6),
        intensities=_sample_foreground(image, classes, seed),
        warnings=tuple(warnings),
    )


def _hash_pixels(image: np.ndarray[Any, Any]) -> str:
    """Hash shape and values as float32, so that a copy stored in another type is the same image."""
    content = hashlib.sha256(repr(image.shape).encode())
    for channel in image:
        content.update(np.ascontiguousarray(channel, np.float32).ravel().data)
    return content.hexdigest()


def nonzero_box(image: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return start and stop of the box around voxels that are not 0 in every channel (nnU-Net's rule).

    Args:
        image: (C, I, J, K). An all-zero image keeps its whole grid.
    """
    anything = (image != 0).any(axis=0)
    start, stop = [], []
    for axis in range(3):
        line = np.flatnonzero(anything.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(int(line[0]) if line.size else 0)
        stop.append(int(line[-1]) + 1 if line.size else anything.shape[axis])
    return tuple(start), tuple(stop)


def _sample_foreground(
    image: np.ndarray[Any, Any], classes: np.ndarray[Any, Any], seed: int
) -> tuple[tuple[float, ...], ...]:
    where = np.flatnonzero((classes > 0) & (classes != IGNORED))
    if where.size > SAMPLES:
        where = np.random.default_rng([seed, where.size]).choice(where, SAMPLES, replace=False)
    return tuple(tuple(np.sort(channel.ravel()[where]).astype(float).tolist()) for channel in image)


@dataclass
class Quarantine:
    """Reject what only a look at the whole cohort shows: one image under two ids."""

    seen: dict[str, str] = field(default_factory=dict)

    def screen(self, record: Record) -> Record:
        """Return the record, or one that rejects it as a duplicate of an earlier case."""
        first = self.seen.setdefault(record.pixels_sha256, record.id) if record.is_usable else record.id
        if first == record.id:
            return record
        return Record(
            record.id,
            record.patient,
            code="DUPLICATE_IMAGE",
            message=f"the image equals that of case {first}, voxel by voxel",
            hint="take one of them out, or both would sit on two sides of a split",
        )


def screen_cohort(records: Sequence[Record]) -> list[Record]:
    """Return all records, duplicates rejected, in order of id."""
    quarantine = Quarantine()
    return [quarantine.screen(record) for record in sorted(records, key=lambda record: record.id)]
