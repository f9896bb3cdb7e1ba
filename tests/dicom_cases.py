"""DICOM folders that scanners, archives, anonymisers and people make, and what must come of each."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

from tests import (
    dicom_accept,
    dicom_accept_frames,
    dicom_accept_pixels,
    dicom_choose,
    dicom_reject,
    dicom_reject_header,
    dicom_reject_stack,
    dicom_repair,
)
from tests.dicom_edits import Case
from tests.dicom_files import Truth

CASES: dict[str, Case] = {
    case.name: case
    for table in (
        dicom_accept.ACCEPT,
        dicom_accept_pixels.ACCEPT,
        dicom_accept_frames.ACCEPT,
        dicom_choose.CHOOSE,
        dicom_repair.REPAIR,
        dicom_repair.WARN,
        dicom_reject.REJECT,
        dicom_reject_stack.REJECT,
        dicom_reject_header.REJECT,
    )
    for case in table
}

_root = Path(tempfile.mkdtemp(prefix="dicom-cases-"))
atexit.register(shutil.rmtree, _root, ignore_errors=True)


@cache
def build(name: str) -> tuple[Path, tuple[Truth, ...]]:
    """Write a case once; the folder is shared by all tests and read only."""
    folder = _root / name
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on values that are wrong on purpose
        return folder, CASES[name].build(folder)


def of_verdict(*verdicts: str) -> list[str]:
    return [name for name, case in CASES.items() if case.verdict in verdicts]
