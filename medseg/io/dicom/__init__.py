"""DICOM in and out: a folder of files becomes volumes that are right, or a refusal that says why.

index = find_series(folder)               headers only: series, their volumes, what is wrong with them
for study in group_studies(index):
    scan = choose_scan(study)              the one volume, or SERIES_AMBIGUOUS with a numbered list
    volume = read_scan(scan)               voxels, rescaled, RAS+
"""

from __future__ import annotations

from medseg.io.dicom.index import (
    choose_scan,
    choose_scans,
    describe,
    find_series,
    group_studies,
    pseudonym,
    scan_id,
)
from medseg.io.dicom.read import read_scan
from medseg.io.dicom.scan import Candidate, Frame, Index, Instance, Options, Scan, Series

__all__ = [
    "Candidate",
    "Frame",
    "Index",
    "Instance",
    "Options",
    "Scan",
    "Series",
    "choose_scan",
    "choose_scans",
    "describe",
    "find_series",
    "group_studies",
    "pseudonym",
    "read_scan",
    "scan_id",
]
