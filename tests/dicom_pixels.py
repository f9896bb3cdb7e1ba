"""Tiny DICOM files of known pixels without any geometry: 12 rows of 10."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from medseg.io.dicom.elements import quiet
from medseg.io.dicom.header import read_instance
from medseg.io.dicom.pixels import worker
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.pixels.decoder import Decoder
from medseg.io.dicom.scan import Frame, Instance

ROWS, COLUMNS = 12, 10
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."  # and a number


def ramp(dtype: Any, low: int = 0, step: int = 1, frames: int = 0) -> NDArray[Any]:
    """Every pixel has another value: low, low + step, ... along the rows; (frames,) rows, columns."""
    shape = (frames, ROWS, COLUMNS) if frames else (ROWS, COLUMNS)
    return (low + step * np.arange(np.prod(shape))).reshape(shape).astype(dtype)


def header(array: NDArray[Any], syntax: str, **changes: Any) -> Dataset:
    """Return the data set of an image without its pixels, as `array` suggests and `changes` say."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = "OT"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if array.ndim == 3:
        dataset.NumberOfFrames = len(array)
    dataset.Rows, dataset.Columns = array.shape[-2:]
    bits = 8 * array.dtype.itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(array.dtype.kind == "i")
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    if "BitsStored" in changes and "HighBit" not in changes:
        dataset.HighBit = dataset.BitsStored - 1
    return dataset


def save(path: Path, dataset: Dataset, tag: int, vr: str, data: bytes) -> Instance:
    """Write a file with this pixel element, and return what the header reader says of it."""
    dataset.add_new(tag, vr, data)
    if dataset.file_meta.TransferSyntaxUID not in (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN):
        dataset[tag].is_undefined_length = True
    with quiet():
        dataset.save_as(path, enforce_file_format=True)
        found = read_instance(path)
    assert found is not None
    return found[0]


def write_native(
    path: Path, array: NDArray[Any], syntax: str = EXPLICIT, vr: str = "OW", **changes: Any
) -> Instance:
    """Write uncompressed pixels; big endian has its words swapped."""
    data = array.astype(array.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
    data += b"\0" * (len(data) % 2)
    if syntax == BIG_ENDIAN and vr == "OW" and array.dtype.itemsize == 1:
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    return save(path, header(array, syntax, **changes), 0x7FE00010, vr, data)


def write_compressed(
    path: Path, array: NDArray[Any], syntax: str, streams: Sequence[bytes], **changes: Any
) -> Instance:
    """Write streams, one a frame, each in one fragment."""
    data = encapsulate(list(streams), has_bot=False)
    return save(path, header(array, syntax, **changes), 0x7FE00010, "OB", data)


class InProcess(Decoder):
    """Decodes without a process of its own, for streams that are known to be harmless."""

    def _start(self) -> Any:
        return None

    def _exchange(self, line: bytes, most: int, limit_s: float) -> tuple[dict[str, Any], bytearray]:
        replies = io.BytesIO()
        worker.serve([line], replies)
        first, _, data = replies.getvalue().partition(b"\n")
        return json.loads(first), bytearray(data)


def decode(instance: Instance, *indices: int, notes: set[str] | None = None) -> list[NDArray[Any]]:
    """Decode some frames of a file; all where none is named."""
    assert instance.pixels is not None
    chosen = indices or range(instance.pixels.frames)
    return list(decode_frames([make_frame(instance, index) for index in chosen], notes))


def make_frame(instance: Instance, index: int = 0) -> Frame:
    return Frame(instance, index, None, None, None, None, 1.0, 0.0, "", None)
