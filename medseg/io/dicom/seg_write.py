"""Write a label map as a DICOM segmentation, encoded by highdicom.

highdicom has rules of its own for multi-frame sources (one orientation for all frames, every frame used) that
real ones break. It is shown one single-frame image per slice, and the references to the source are put in
afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from medseg.io.dicom.scan import Scan
from medseg.io.dicom.slices import map_to_source, reorder
from medseg.io.dicom.source import (
    MANUFACTURER,
    Source,
    check_names,
    clean,
    decimals,
    derive_uid,
    fingerprint,
    hash_voxels,
    read_source,
    refer_to,
    refer_to_files,
)

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

Kind = Literal["binary", "labelmap", "fractional"]
Code = tuple[str, str, str]
"""Value, coding scheme and meaning."""

ANATOMY: Code = ("123037004", "SCT", "Anatomical Structure")  # CID 7150
TISSUE: Code = ("85756007", "SCT", "Tissue")  # CID 7166: says nothing that is not known
ALGORITHM_FAMILY: Code = ("123109", "DCM", "Artificial Intelligence")  # CID 7162


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
        algorithm: Name and version of what made the labels.
        probabilities: (labels, I, J, K) in ascending order of labels, 0..1, on the grid of `labels`.

    Returns:
        Whether a voxel is set at all.

    Raises:
        GeometryError: GRID_MISMATCH.
        DataError: LABEL_VALUE, LABEL_REFERENCE or PROBABILITY_RANGE.
        ConfigError: PROBABILITIES_MISSING.
    """
    source = read_source(scan, labels)
    check_names(source.array, names)
    values = sorted(names)
    if kind == "fractional":
        pixels = _bring_probabilities(probabilities, labels, scan, len(values))
    else:
        pixels = source.array if kind == "labelmap" else _rank(source.array, values)
        pixels = pixels.astype(np.uint8 if pixels.max(initial=0) < 256 else np.uint16, copy=False)
    settings = [sorted(table.items()) for table in (names, codes or {}, categories or {})]
    key = fingerprint(source, "seg", kind, algorithm, settings, hash_voxels(pixels), version("highdicom"))
    numbers = values if kind == "labelmap" else range(1, len(values) + 1)
    with _silence():
        segments = [
            _describe(number, value, source, clean(names[value], "LO") or f"label {value}", algorithm)
            for number, value in zip(numbers, values, strict=True)
        ]
        for segment, value in zip(segments, values, strict=True):
            _classify(segment, (categories or {}).get(value, ANATOMY), (codes or {}).get(value, TISSUE))
        dataset = _encode(source, np.moveaxis(pixels, (0, 1, 2), (2, 1, 0)), segments, kind, (key, algorithm))
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


def _describe(
    number: int, value: int, source: Source, name: str, algorithm: tuple[str, str]
) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr.coding import CodedConcept

    family = CodedConcept(*ALGORITHM_FAMILY)
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=CodedConcept(*ANATOMY),
        segmented_property_type=CodedConcept(*TISSUE),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            clean(algorithm[0], "LO"), family, clean(algorithm[1], "LO")
        ),
        # The same label of the same series is the same thing, whoever segments it again.
        tracking_uid=derive_uid("tracking", source.scan.first.series, value),
        tracking_id=f"label {value}",
    )


def _classify(segment: SegmentDescription, category: Code, kind: Code) -> None:
    from highdicom.sr.coding import CodedConcept

    segment.SegmentedPropertyCategoryCodeSequence = [CodedConcept(*category)]
    segment.SegmentedPropertyTypeCodeSequence = [CodedConcept(*kind)]


def _encode(
    source: Source,
    pixels: NDArray[Any],
    segments: Sequence[SegmentDescription],
    kind: Kind,
    identity: tuple[str, tuple[str, str]],
) -> Dataset:
    """Return the object, whose references still name slices by number.

    Args:
        source: The scan.
        pixels: (slices, rows, columns[, labels]).
        segments: Their descriptions.
        kind: How they are stored.
        identity: What UIDs are derived from, and the algorithm.
    """
    from highdicom.seg import Segmentation

    key, algorithm = identity
    dataset: Dataset = Segmentation(
        source_images=_show_slices(source),
        pixel_array=pixels,
        segmentation_type=kind.upper(),
        segment_descriptions=segments,
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
        series_description=clean(f"{algorithm[0]} segmentation", "LO"),
        content_date=source.date,
        content_time=source.time,
    )
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        dataset.pop(keyword, None)
    for item in dataset.get("ContributingEquipmentSequence") or []:
        item.pop("ContributionDateTime", None)
    organization = derive_uid(key, "dimensions")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return dataset


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
        image.SliceThickness = decimals([frame.thickness_mm or source.scan.geometry.spacing_mm[2]])[0]
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
