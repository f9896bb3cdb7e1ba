"""Compressed streams that lie, break off or are none; test_io_dicom_worker.py has the process."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate

from medseg.core.errors import DataError
from medseg.io.dicom.pixels import decode as pixels
from medseg.io.dicom.scan import Instance
from tests import dicom_streams
from tests.dicom_compress import compress, compress_jpeg_lossless
from tests.dicom_pixels import (
    JPEG,
    RLE,
    InProcess,
    decode,
    header,
    ramp,
    save,
    write_compressed,
)
from tests.dicom_pixels import write_native as write_plain

RAMP = ramp("u2")
STREAMS = {
    RLE: compress(RAMP, RLE, 16),
    JPEG + "51": dicom_streams.JPEG_12,
    JPEG + "70": compress_jpeg_lossless(RAMP, 16),
    JPEG + "80": compress(RAMP, JPEG + "80", 16),
    JPEG + "201": dicom_streams.HTJ2K,
}
SIZED = {syntax: stream for syntax, stream in STREAMS.items() if syntax != RLE}


def write(folder: Path, stream: bytes, syntax: str, **changes: Any) -> Instance:
    return write_compressed(folder / "a.dcm", RAMP, syntax, [stream], **changes)


def refusal(instance: Instance, *indices: int) -> DataError:
    with pytest.raises(DataError) as error:
        decode(instance, *indices)
    return error.value


def claim(stream: bytes, rows: int, columns: int) -> bytes:
    """Return the stream with another size in its own header."""
    for marker, skipped, form in ((b"\xff\xc1", 5, ">HH"), (b"\xff\xc3", 5, ">HH"), (b"\xff\xf7", 5, ">HH")):
        if (at := stream.find(marker)) > 0:
            return stream[: at + skipped] + struct.pack(form, rows, columns) + stream[at + skipped + 4 :]
    return stream[:8] + struct.pack(">LL", columns, rows) + stream[16:]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the start of a process where the stream is refused before a library sees it."""
    monkeypatch.setattr(pixels, "Decoder", InProcess)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("syntax", SIZED)
def test_a_stream_that_claims_another_size_is_refused_before_decoding(tmp_path: Path, syntax: str) -> None:
    error = refusal(write(tmp_path, claim(STREAMS[syntax], 60000, 60000), syntax))
    assert (error.code, "60000 x 60000" in error.message) == ("DICOM_DECODE", True)


@pytest.mark.parametrize("syntax", STREAMS)
def test_garbage_is_refused(tmp_path: Path, syntax: str) -> None:
    garbage = np.random.default_rng(0).integers(0, 256, 5000).astype("u1").tobytes()
    assert refusal(write(tmp_path, garbage, syntax)).code == "DICOM_DECODE"


@pytest.mark.parametrize("syntax", SIZED)
def test_garbage_behind_a_good_start_is_refused_or_read_but_never_fatal(tmp_path: Path, syntax: str) -> None:
    stream = STREAMS[syntax]
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, 300).astype("u1").tobytes()
        instance = write(tmp_path, stream[: len(stream) - 30] + noise + b"\xff\xd9", syntax)
        try:
            assert decode(instance)[0].shape == RAMP.shape
        except DataError as error:
            assert error.code == "DICOM_DECODE"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("syntax", STREAMS)
def test_an_empty_fragment_is_refused(tmp_path: Path, syntax: str) -> None:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 2  # an offset table and a fragment
    instance = save(tmp_path / "a.dcm", header(RAMP, syntax), 0x7FE00010, "OB", items)
    assert refusal(instance).code == "DICOM_DECODE"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("syntax", SIZED)
def test_a_stream_without_its_end_is_refused(tmp_path: Path, syntax: str) -> None:
    stream = STREAMS[syntax]
    error = refusal(write(tmp_path, stream[: len(stream) * 2 // 3], syntax))
    assert (error.code, "breaks off" in error.message) == ("DICOM_TRUNCATED", True)


@pytest.mark.usefixtures("in_process")
def test_run_lengths_that_end_too_early_are_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, STREAMS[RLE][:-20], RLE))
    assert (error.code, "too early" in error.message) == ("DICOM_DECODE", True)


@pytest.mark.usefixtures("in_process")
def test_run_lengths_of_more_rows_are_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, STREAMS[RLE], RLE, Rows=11))
    assert (error.code, "goes on after 110 pixels" in error.message) == ("DICOM_DECODE", True)


def test_corrupt_data_that_libjpeg_fills_up_are_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 1 << 16, (12, 10)).astype("u2")
    stream = compress_jpeg_lossless(array, 16)
    cut = stream[: len(stream) // 2] + b"\xff\xd9"
    error = refusal(write(tmp_path, cut, JPEG + "70"))
    assert (error.code, "corrupt" in error.message) == ("DICOM_DECODE", True)


@pytest.mark.usefixtures("in_process")
def test_a_stream_of_another_kind_of_jpeg_is_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, dicom_streams.JPEG_12, JPEG + "70"))
    assert (error.code, "another kind" in error.message) == ("DICOM_DECODE", True)


@pytest.mark.usefixtures("in_process")
def test_a_stream_of_three_components_is_a_colour_image(tmp_path: Path) -> None:
    stream = compress(RAMP, JPEG + "80", 16)
    at = stream.find(b"\xff\xf7") + 9
    assert (
        refusal(write(tmp_path, stream[:at] + b"\x03" + stream[at + 1 :], JPEG + "80")).code == "DICOM_COLOUR"
    )


RLE_HEAD = np.array([2, 64, 66, *[0] * 13], "<u4").tobytes()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("syntax", "stream", "message"),
    [
        (RLE, RLE_HEAD[:60], "no header"),
        (RLE, b"\x03" + RLE_HEAD[1:], "no 2 segments in order"),
        (RLE, RLE_HEAD + b"\x80\x80", "too early"),
        (JPEG + "70", b"\xff\xd8\xff\xda\0\x04\1\1\xff\xd9", "is no JPEG"),
        (JPEG + "70", b"\xff\xd8\xff\xff\xfe\0\x04\1\1\xff\xd9", "is no JPEG"),
        (JPEG + "80", STREAMS[JPEG + "70"], "is no JPEG-LS"),
        (JPEG + "70", STREAMS[JPEG + "70"].replace(b"\xff\xc3\0\x0b\x10", b"\xff\xc3\0\x0b\x11"), "17 bits"),
        (JPEG + "90", dicom_streams.HTJ2K[:44], "is no JPEG 2000"),
        (JPEG + "90", dicom_streams.HTJ2K[:43] + b"\2" + dicom_streams.HTJ2K[44:], "subsampled"),
    ],
)
def test_a_stream_of_an_impossible_start_is_refused(
    tmp_path: Path, syntax: str, stream: bytes, message: str
) -> None:
    error = refusal(write(tmp_path, stream, syntax))
    assert error.code == "DICOM_DECODE"
    assert message in error.message


# Fragments


@pytest.mark.usefixtures("in_process")
def test_fewer_fragments_than_frames_are_refused_with_numbers(tmp_path: Path) -> None:
    instance = write_compressed(
        tmp_path / "a.dcm", ramp("u2", frames=2), RLE, [STREAMS[RLE]] * 2, NumberOfFrames=3
    )
    error = refusal(instance, 0)
    assert (error.code, error.message) == ("DICOM_TRUNCATED", "2 fragments of pixel data for 3 frames")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("lost", [6, 9, 20, 60])
def test_a_file_that_ends_within_a_fragment_is_refused(tmp_path: Path, lost: int) -> None:
    instance = write(tmp_path, STREAMS[RLE], RLE)
    instance.path.write_bytes(instance.path.read_bytes()[:-lost])
    assert refusal(instance).code == "DICOM_TRUNCATED"


@pytest.mark.usefixtures("in_process")
def test_a_file_that_lacks_only_the_mark_after_its_last_fragment_is_read(tmp_path: Path) -> None:
    instance = write(tmp_path, STREAMS[RLE], RLE)
    instance.path.write_bytes(instance.path.read_bytes()[:-8])
    np.testing.assert_array_equal(decode(instance)[0], RAMP)


@pytest.mark.usefixtures("in_process")
def test_bytes_between_fragments_are_refused(tmp_path: Path) -> None:
    data = encapsulate([STREAMS[RLE]], has_bot=False)
    instance = save(tmp_path / "a.dcm", header(RAMP, RLE), 0x7FE00010, "OB", data + b"\1" * 8)
    error = refusal(instance)
    assert (error.code, error.message) == ("DICOM_DECODE", "the pixel data are damaged after fragment 2")


@pytest.mark.usefixtures("in_process")
def test_a_file_that_was_exchanged_for_an_uncompressed_one_is_refused(tmp_path: Path) -> None:
    instance = write(tmp_path, STREAMS[RLE], RLE)
    write_plain(tmp_path / "a.dcm", RAMP)
    error = refusal(instance)
    assert (error.code, "not in fragments" in error.message) == ("DICOM_DECODE", True)
