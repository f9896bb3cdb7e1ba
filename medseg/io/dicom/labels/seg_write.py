"""Write a label map as a DICOM segmentation, encoded by highdicom.

highdicom has rules of its own for multi-frame sources (one orientation for all frames, every frame used) that
real ones break. It is shown one single-frame image per slice, and the references to the source are put in
afterwards.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medseg import __version__
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import atomic_path
from medseg.core.volume import Labels
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.labels.slices import map_to_source, reorder
from medseg.io.dicom.labels.source import (
    MANUFACTURER,
    UNKNOWN,
    Source,
    check_names,
    clean,
    decimals,
    derive_uid,
    describe_maker,
    fingerprint,
    hash_voxels,
    read_source,
    refer_to,
    refer_to_files,
)
from medseg.io.dicom.scan import Scan

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

Kind = Literal["binary", "labelmap", "fractional"]
Code = tuple[str, str, str]
"""Value, coding scheme and meaning."""

ANATOMY: Code = ("123037004", "SCT", "Anatomical Structure")  # CID 7150
TISSUE: Code = ("85756007", "SCT", "Tissue")  # CID 7166: says nothing that is not known
ALGORITHM_FAMILY: Code = ("123109", "DCM", "Artificial Intelligence")  # CID 7162


@dataclass(frozen=True)
class _Meaning:
    """What labels are, by value, and what made them."""

    names: Mapping[int, str]
    codes: Mapping[int, Code]
    categories: Mapping[int, Code]
    algorithm: tuple[str, str]


def write_seg(
    path: Path,
    labels: Labels,
    scan: Scan,
    names: Mapping[int, str],
    *,
    codes: Mapping[int, Code] | None = None,
    categories: Mapping[int, Code] | None = None,
    kind: Kind = "binary",
    algorithm: tuple[str, str] = (MANUFACTURER, __version__),
    probabilities: NDArray[Any] | None = None,
) -> bool:
    """Write one segment for each label; one without voxels has empty frames.

    Segments are numbered by rank of their label, since numbers of binary and fractional ones must run from 1
    without gap (PS3.3 C.8.20.2); in a label map they are the labels themselves.

    Args:
        path: Written atomically.
        labels: On the grid of the scan; for a repaired scan it is brought back to the source's slices.
        scan: The source: its patient, study and slices are referred to.
        names: Label value -> name.
        codes: Label value -> what it is (segmented property type); TISSUE where it is not listed.
        categories: Label value -> category of that; ANATOMY where it is not listed.
        kind: How segments are stored; "fractional" needs probabilities.
        algorithm: Name and version of what made the labels; UNKNOWN is a name, too.
        probabilities: (labels, I, J, K) in ascending order of labels, 0..1, on the grid of `labels`.

    Returns:
        Whether a voxel is set at all.

    Raises:
        GeometryError: GRID_MISMATCH.
        DataError: LABEL_VALUE, LABEL_REFERENCE or PROBABILITY_RANGE.
        ConfigError: PROBABILITIES_MISSING.
    """
    source, meaning = read_source(scan, labels), _Meaning(names, codes or {}, categories or {}, algorithm)
    check_names(source.array, names)
    if kind == "fractional":
        pixels = _bring_probabilities(probabilities, labels, scan, len(names))
    else:
        pixels = source.array if kind == "labelmap" else _rank(source.array, sorted(names))
        pixels = pixels.astype(np.uint8 if pixels.max(initial=0) < 256 else np.uint16, copy=False)
    with _silence():
        dataset = _encode(source, pixels, kind, meaning)
        _refer(dataset, source)
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return bool(source.array.any())


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what highdicom and pydicom log and warn of, patient names among it, from leaving the process."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)


def _rank(array: NDArray[Any], values: Sequence[int]) -> NDArray[Any]:
    """Return the labels as numbers from 1."""
    if list(values) == list(range(1, len(values) + 1)):
        return array
    ranks = np.zeros(max(values) + 1, np.min_scalar_type(len(values)))
    ranks[list(values)] = np.arange(1, len(values) + 1)
    return np.asarray(ranks[array])


def _bring_probabilities(
    probabilities: NDArray[Any] | None, labels: Labels, scan: Scan, count: int
) -> NDArray[np.float32]:
    """Return (columns, rows, slices, labels) probabilities on the slices of the source."""
    if probabilities is None:
        raise ConfigError(
            "a fractional segmentation is made of probabilities, and there are none",
            hint="save them with the mask, or write a binary one",
            code="PROBABILITIES_MISSING",
        )
    if probabilities.shape != (count, *labels.array.shape):
        raise DataError(
            f"probabilities of shape {probabilities.shape} for {count} labels on {labels.array.shape}",
            hint="one volume for each label, without background",
            code="PROBABILITY_RANGE",
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):  # also false for NaN
        raise DataError("probabilities outside 0..1", hint="apply softmax", code="PROBABILITY_RANGE")
    moved = [reorder(one.astype(np.float32), labels.geometry, scan.geometry) for one in probabilities]
    return np.stack([map_to_source(one, scan) if scan.repair else one for one in moved], axis=-1)


def _describe(number: int, value: int, source: Source, meaning: _Meaning) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr.coding import CodedConcept

    name, version_of_it = (clean(part, "LO") for part in meaning.algorithm)
    return SegmentDescription(
        segment_number=number,
        segment_label=clean(meaning.names[value], "LO") or f"label {value}",
        segmented_property_category=CodedConcept(*meaning.categories.get(value, ANATOMY)),
        segmented_property_type=CodedConcept(*meaning.codes.get(value, TISSUE)),
        # Of unknown labels neither a hand nor an algorithm alone may be claimed; a value must be given.
        algorithm_type="SEMIAUTOMATIC" if meaning.algorithm[0] == UNKNOWN else "AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name, CodedConcept(*ALGORITHM_FAMILY), version_of_it
        ),
        # The same label of the same series is the same thing, whoever segments it again.
        tracking_uid=derive_uid("tracking", source.scan.first.series, value),
        tracking_id=f"label {value}",
    )


def _encode(source: Source, pixels: NDArray[Any], kind: Kind, meaning: _Meaning) -> Dataset:
    """Return the object, whose references still name slices by number.

    `pixels` are (columns, rows, slices[, labels]): numbers of segments, or probabilities.
    """
    from highdicom.seg import Segmentation

    key, algorithm, values = (
        _identify(source, pixels, kind, meaning),
        meaning.algorithm,
        sorted(meaning.names),
    )
    dataset: Dataset = Segmentation(
        source_images=_show_slices(source),
        pixel_array=np.moveaxis(pixels, (0, 1, 2), (2, 1, 0)),
        segmentation_type=kind.upper(),
        segment_descriptions=[
            _describe(value if kind == "labelmap" else rank, value, source, meaning)
            for rank, value in enumerate(values, start=1)
        ],
        series_instance_uid=derive_uid(key, "series"),
        series_number=990,
        sop_instance_uid=derive_uid(key, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=clean(algorithm[0], "LO"),
        software_versions=clean(algorithm[1], "LO"),
        device_serial_number="0",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=False,
        content_label="SEGMENTATION",
        content_description=None,
        series_description=clean(describe_maker(algorithm, "segmentation"), "LO"),
        content_date=source.date,
        content_time=source.time,
    )
    _fix(dataset, derive_uid(key, "dimensions"))
    return dataset


def _identify(source: Source, pixels: NDArray[Any], kind: Kind, meaning: _Meaning) -> str:
    settings = [sorted(table.items()) for table in (meaning.names, meaning.codes, meaning.categories)]
    voxels = hash_voxels(pixels)
    return fingerprint(source, "seg", kind, meaning.algorithm, settings, voxels, version("highdicom"))


def _fix(dataset: Dataset, organization: str) -> None:
    """Take out what highdicom takes from the clock and from chance."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        dataset.pop(keyword, None)
    for item in dataset.get("ContributingEquipmentSequence") or []:
        item.pop("ContributionDateTime", None)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def _show_slices(source: Source) -> list[Dataset]:
    """Return each slice as a single-frame image whose instance UID is its number."""
    images, first = [], source.scan.frames[0]
    assert first.orientation is not None and first.spacing_mm is not None
    for number, frame in enumerate(source.scan.frames):
        assert frame.position_mm is not None
        image = Dataset()
        image.update(source.header)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, _name_slice(number)
        image.SeriesInstanceUID = source.scan.first.series
        image.Modality = source.scan.modality
        image.Columns, image.Rows = source.array.shape[:2]
        image.ImagePositionPatient = decimals(frame.position_mm)
        image.ImageOrientationPatient = decimals(first.orientation)
        image.PixelSpacing = decimals(first.spacing_mm)
        thickness_mm = frame.thickness_mm or 0.0  # any number at all, or none
        is_thick = math.isfinite(thickness_mm) and thickness_mm > 0
        image.SliceThickness = decimals([thickness_mm if is_thick else source.scan.geometry.spacing_mm[2]])[0]
        images.append(image)
    return images


def _name_slice(number: int) -> str:
    return f"1.2.{number}"


def _refer(dataset: Dataset, source: Source) -> None:
    """Let every frame refer to its slice, and the object to all files of the scan."""
    slices = {_name_slice(number): frame for number, frame in enumerate(source.scan.frames)}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for item in group.DerivationImageSequence[0].SourceImageSequence:
            if frame := slices.get(item.ReferencedSOPInstanceUID):  # segments share the items of a slice
                item.update(refer_to(frame))
    files = refer_to_files(source.scan)
    dataset.SourceImageSequence = files
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = files
