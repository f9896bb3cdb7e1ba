"""What the commands write of a scan, written from a damaged one and read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medseg.core.errors import MedsegError
from medseg.core.volume import Labels, Volume
from medseg.io import read_volume, write_volume
from medseg.io.dicom import Index, Scan, find_series
from medseg.io.dicom.deidentify.files import deidentify_file
from medseg.io.dicom.deidentify.profile import Policy
from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms, find_patient
from medseg.io.dicom.labels.rtstruct import read_rtstruct
from medseg.io.dicom.labels.rtstruct_write import write_rtstruct
from medseg.io.dicom.labels.seg import read_seg
from medseg.io.dicom.labels.seg_write import write_seg

NAMES = Pseudonyms(b"a key of some site, 32 bytes long")
POLICIES = (Policy(allow_burned_in=True), Policy("shift", keep_device=True))
VALUE, LABEL = 1, {1: "one"}


def write_image(scan: Scan, volume: Volume, out: Path) -> Iterator[str | MedsegError]:
    """Write a scan as NIfTI, and a box in it as SEG and RTSTRUCT; what is read back is the same.

    Yields:
        "wrote" or the error, for each of them.
    """
    try:
        write_volume(out / "image.nii.gz", volume)
        back = read_volume(out / "image.nii.gz")
        assert np.array_equal(back.array, volume.array.astype(back.array.dtype))
        assert not back.geometry.differs_from(volume.geometry)
        yield "wrote"
    except MedsegError as error:
        yield error
    labels = Labels(draw_box(scan.geometry.shape), scan.geometry)
    for write, read in ((write_seg, read_seg), (write_rtstruct, read_rtstruct)):
        try:
            write(out / "label.dcm", labels, scan, LABEL)
            again = read(out / "label.dcm", scan, {"*": VALUE})
        except MedsegError as error:
            yield error
            continue
        if not scan.repair:  # else it comes back by way of other slices
            assert np.array_equal(again.array, labels.array)
        yield "wrote"


def draw_box(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the middle of a grid as label 1."""
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(n // 4, n // 4 + (n + 1) // 2) for n in shape)] = VALUE
    return array


def deidentify_all(index: Index, out: Path) -> Iterator[str | MedsegError]:
    """De-identify every readable file under one of the policies, and look at what came out.

    Yields:
        "wrote" or the error, for each of them.
    """
    out.mkdir()
    instances = [instance for series in index.series for instance in series.instances]
    for number, instance in enumerate(instances):
        target = out / f"{number}.dcm"
        try:
            deidentify_file(instance.path, target, POLICIES[number % 2], NAMES, find_patient(instance))
        except MedsegError as error:
            assert not target.exists()
            yield error
            continue
        yield "wrote"
    try:
        find_series(out)
    except MedsegError as error:
        yield error
