"""RTSTRUCT and SEG objects as label maps: which one belongs to a series, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import DataError
from medseg.core.files import sha256_of_file
from medseg.core.volume import Labels
from medseg.io.dicom.scan import Index, Instance, Scan, Series

KINDS = ("RTSTRUCT", "SEG")


@dataclass(frozen=True)
class DicomLabel:
    """A label map that is stored as structures or segments of a scan.

    Args:
        kind: Modality: "RTSTRUCT" or "SEG".
        scan: What it was drawn on; the label map lies on its grid.
        rois: Name, pattern or "#number" of a structure or segment -> stored label value.
        labels: Stored label value -> name, for empty `rois`.
    """

    path: Path
    kind: str
    scan: Scan
    rois: Mapping[str, int]
    labels: Mapping[int, str]

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file it is stored in."""
        return (self.path,)


def read_label(label: DicomLabel) -> Labels:
    """Read structures or segments as a label map on the grid of their scan.

    Raises:
        DataError: LABEL_ROI, LABEL_REFERENCE, DICOM_CONTOUR, DICOM_SEGMENTS_OVERLAP, DICOM_DAMAGED.
    """
    if label.kind == "RTSTRUCT":
        from medseg.io.dicom.labels.rtstruct import read_rtstruct

        return read_rtstruct(label.path, label.scan, label.rois, labels=label.labels)
    from medseg.io.dicom.labels.seg import read_seg

    return read_seg(label.path, label.scan, label.rois, labels=label.labels)


def list_labels(index: Index) -> list[Instance]:
    """Return every RTSTRUCT and SEG file."""
    files = [instance for series in index.series if not series.is_image for instance in series.instances]
    return [instance for instance in files if instance.modality in KINDS]


def find_labels(index: Index, scan: Scan | Series) -> list[Instance]:
    """Return the RTSTRUCT and SEG files that refer to a scan's series; copies of one file count once.

    One that names no series counts where this one is alone in its frame of reference.
    """
    first, own = scan.first, scan.first.facts.get("frame_of_reference", "")
    alike = [s for s in index.series if s.is_image and s.first.facts.get("frame_of_reference", "") == own]
    found = []
    for label in list_labels(index):
        references = label.facts.get("references", "").split()
        is_near = len(alike) == 1 and own and label.facts.get("frame_of_reference", "") == own
        if first.series in references or (is_near and not references):
            found.append(label)
    return found if len(found) < 2 else list({sha256_of_file(label.path): label for label in found}.values())


def make_label(
    instance: Instance, scan: Scan, rois: Mapping[str, int], labels: Mapping[int, str]
) -> DicomLabel:
    """Return a file as the label map of a scan; see `DicomLabel`.

    Raises:
        DataError: LABEL_REFERENCE: it names another patient.
    """
    if instance.patient != scan.first.patient:
        raise DataError(
            "structures or segments of a scan name another patient than the scan",
            hint="export both again; medseg never mixes patients",
            code="LABEL_REFERENCE",
        )
    return DicomLabel(instance.path, instance.modality, scan, dict(rois), dict(labels))
