from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from medseg.core.errors import FormatError
from medseg.io.dicom.elements import quiet
from medseg.io.dicom.header import read_instance
from medseg.io.dicom.pixels import decode as pixels
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.pixels.stored import adopt
from medseg.io.dicom.scan import Frame
from tests import dicom_streams
from tests.dicom_compress import compress, compress_j2k, compress_jpeg_lossless
from tests.dicom_pixels import (
    JPEG,
    RLE,
    InProcess,
    decode,
    header,
    make_frame,
    ramp,
    save,
    write_compressed,
    write_native,
)


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save every test the start of a process; tests of hostile streams have one."""
    monkeypatch.setattr(pixels, "Decoder", InProcess)


LOSSLESS = {
    "RLE": RLE,
    "JPEG lossless": JPEG + "57",
    "JPEG lossless, predictor 1": JPEG + "70",
    "JPEG-LS": JPEG + "80",
    "JPEG 2000": JPEG + "90",
}


def large(dtype: str, low: int = 0) -> NDArray[Any]:
    """(40, 36) of different values: OpenJPEG writes nothing smaller than 32."""
    return (low + np.arange(40 * 36)).reshape(40, 36).astype(dtype)


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS)
@pytest.mark.parametrize(("dtype", "low"), [("u2", 0), ("i2", -700), ("u1", 0)])
def test_lossless_pixels_keep_value_type_and_place(tmp_path: Path, syntax: str, dtype: str, low: int) -> None:
    array = large(dtype, low)
    stream = compress(array, syntax, 8 * array.dtype.itemsize)
    (found,) = decode(write_compressed(tmp_path / "a.dcm", array, syntax, [stream]))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS)
@pytest.mark.parametrize(("dtype", "low"), [("u2", 0), ("i2", -700)])
def test_lossless_pixels_of_12_bits_keep_their_sign(
    tmp_path: Path, syntax: str, dtype: str, low: int
) -> None:
    array, notes = large(dtype, low), set[str]()
    stream = compress(array, syntax, 12)
    instance = write_compressed(tmp_path / "a.dcm", array, syntax, [stream], BitsStored=12)
    (found,) = decode(instance, notes=notes)
    np.testing.assert_array_equal(found, array)
    assert not notes


def test_run_lengths_of_32_bits_are_read(tmp_path: Path) -> None:
    array = ramp("i4", -5_000_000, 99_999)
    planes = array.astype(">i4").view("u1").reshape(120, 4).T
    segments = [b"\x77" + plane.tobytes() + b"\x80" for plane in planes]  # 120 as they are, then nothing
    heads = np.array([4, 64, 186, 308, 430, *[0] * 11], "<u4").tobytes()
    (found,) = decode(write_compressed(tmp_path / "a.dcm", array, RLE, [heads + b"".join(segments)]))
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("number", "name", "array", "stored", "off"),
    [
        ("50", "JPEG_8", ramp("u1", 0, 2), 8, 0),
        ("51", "JPEG_8", ramp("u1", 0, 2), 8, 0),
        ("51", "JPEG_12", ramp("u2", 0, 30), 12, 0),
        ("201", "HTJ2K", ramp("u2", 0, 30), 16, 0),
        ("202", "HTJ2K_SIGNED", ramp("i2", -1800, 30), 16, 0),
        ("203", "HTJ2K_LOSSY", ramp("u2", 0, 30), 16, 1),
    ],
)
def test_streams_of_other_encoders_are_read(
    tmp_path: Path, number: str, name: str, array: NDArray[Any], stored: int, off: int
) -> None:
    stream = getattr(dicom_streams, name)
    instance = write_compressed(tmp_path / "a.dcm", array, JPEG + number, [stream], BitsStored=stored)
    (found,) = decode(instance)
    assert found.dtype == array.dtype
    assert np.abs(found.astype(int) - array).max() <= off


def test_nearly_lossless_jpeg_ls_is_off_by_what_it_allows(tmp_path: Path) -> None:
    import jpeg_ls

    array = large("u2")
    stream = bytes(jpeg_ls.encode_array(array, lossy_error=3))
    (found,) = decode(write_compressed(tmp_path / "a.dcm", array, JPEG + "81", [stream]))
    assert 0 < np.abs(found.astype(int) - array).max() <= 3


def test_lossy_jpeg_2000_keeps_values_beyond_the_stored_bits(tmp_path: Path) -> None:
    array, notes = large("u2", 4095 - 1439), set[str]()
    stream = compress_j2k(array, 16, lossy=True)
    instance = write_compressed(tmp_path / "a.dcm", array, JPEG + "91", [stream], BitsStored=12)
    (found,) = decode(instance, notes=notes)
    assert np.abs(found.astype(int) - array).max() < 100  # a masked overshoot would be off by 4096
    assert not notes


def test_real_compressed_copies_of_a_series_hold_one_volume(
    medseg_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # as users decode
    folder = medseg_data / "dicom2nifti" / "generic"
    first = read_all(folder / "compressed")
    assert first.shape == (4, 256, 256)
    for name in ("compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle"):
        np.testing.assert_array_equal(read_all(folder / name), first)


def read_all(folder: Path) -> NDArray[Any]:
    frames: list[Frame] = []
    with quiet():
        for path in sorted(path for path in folder.rglob("*.dcm")):
            found = read_instance(path)
            assert found is not None
            frames += found[1]
    return np.stack(list(decode_frames(frames)))


# The sign


def test_a_signed_header_makes_a_pattern_of_an_unsigned_stream_of_as_many_bits(tmp_path: Path) -> None:
    array = large("i2", -700)
    stream = compress_j2k((array & 0xFFF).astype("u2"), 12, lossy=False)
    instance = write_compressed(tmp_path / "a.dcm", array, JPEG + "90", [stream], BitsStored=12)
    np.testing.assert_array_equal(decode(instance)[0], array)


def test_an_unsigned_header_makes_a_pattern_of_a_signed_stream_of_as_many_bits(tmp_path: Path) -> None:
    array = large("u2", 2048 - 720)  # half of the values have the highest of 12 bits
    stream = compress_j2k(((array.astype("i2") ^ 2048) - 2048).astype("i2"), 12, lossy=False)
    instance = write_compressed(tmp_path / "a.dcm", array, JPEG + "90", [stream], BitsStored=12)
    np.testing.assert_array_equal(decode(instance)[0], array)


def test_a_stream_of_fewer_bits_with_another_sign_is_refused_where_it_matters(tmp_path: Path) -> None:
    stream = compress_j2k(large("u2", 2000), 12, lossy=False)
    instance = write_compressed(tmp_path / "a.dcm", large("i2"), JPEG + "90", [stream])
    with pytest.raises(FormatError, match="disagree about the sign") as error:
        decode(instance)
    assert error.value.code == "DICOM_DECODE"


def test_a_stream_of_fewer_bits_with_another_sign_is_read_where_no_value_shows_it(tmp_path: Path) -> None:
    array = large("i2")  # all below 2048
    stream = compress_j2k(array.astype("u2"), 12, lossy=False)
    instance = write_compressed(tmp_path / "a.dcm", array, JPEG + "90", [stream])
    np.testing.assert_array_equal(decode(instance)[0], array)


def test_overlays_in_the_high_bits_of_run_lengths_are_masked_and_told(tmp_path: Path) -> None:
    array, notes = ramp("u2"), set[str]()
    stream = compress(array | 0x8000, RLE, 16)
    instance = write_compressed(tmp_path / "a.dcm", array, RLE, [stream], BitsStored=12)
    np.testing.assert_array_equal(decode(instance, notes=notes)[0], array)
    assert notes == {"DICOM_HIGH_BITS"}


def test_values_that_the_declared_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u1"))
    assert instance.pixels is not None
    with pytest.raises(FormatError, match="values of 12 bits where the header allocates 8"):
        adopt(np.full((12, 10), 256, "u2"), 12, instance.pixels, set(), is_lossless=True)


# Frames and fragments


def streams_of(frames: NDArray[Any]) -> list[bytes]:
    return [compress_jpeg_lossless(frame, 16) for frame in frames]


def test_compressed_frames_come_in_the_order_asked(tmp_path: Path) -> None:
    frames = ramp("u2", frames=4)
    instance = write_compressed(tmp_path / "a.dcm", frames, JPEG + "70", streams_of(frames))
    np.testing.assert_array_equal(decode(instance, 3, 0, 2, 0), frames[[3, 0, 2, 0]])


@pytest.mark.parametrize("has_table", [True, False])
def test_frames_in_several_fragments_are_put_together(tmp_path: Path, has_table: bool) -> None:
    frames = ramp("u2", frames=3)
    data = encapsulate(streams_of(frames), fragments_per_frame=4, has_bot=has_table)
    instance = save(tmp_path / "a.dcm", header(frames, JPEG + "70"), 0x7FE00010, "OB", data)
    np.testing.assert_array_equal(decode(instance, 2, 0, 1), frames[[2, 0, 1]])


def test_a_single_frame_may_be_in_several_fragments(tmp_path: Path) -> None:
    array = ramp("u2")
    data = encapsulate(streams_of(array[None]), fragments_per_frame=5, has_bot=False)
    instance = save(tmp_path / "a.dcm", header(array, JPEG + "70"), 0x7FE00010, "OB", data)
    np.testing.assert_array_equal(decode(instance)[0], array)


def test_fragments_whose_frames_nothing_tells_are_refused(tmp_path: Path) -> None:
    frames = ramp("u2", frames=2)
    streams = [compress(frame, RLE, 16) for frame in frames]
    data = encapsulate(streams, fragments_per_frame=2, has_bot=False)
    instance = save(tmp_path / "a.dcm", header(frames, RLE), 0x7FE00010, "OB", data)
    with pytest.raises(FormatError, match="4 fragments of pixel data for 2 frames") as error:
        decode(instance)
    assert error.value.code == "DICOM_DECODE"


def test_compressed_and_uncompressed_files_may_take_turns(tmp_path: Path) -> None:
    array = ramp("u2")
    native = write_native(tmp_path / "a.dcm", array)
    packed = write_compressed(tmp_path / "b.dcm", array, RLE, [compress(array, RLE, 16)])
    found = list(decode_frames([make_frame(packed), make_frame(native), make_frame(packed)]))
    np.testing.assert_array_equal(found, [array] * 3)


def test_a_decoder_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = write_compressed(tmp_path / "a.dcm", ramp("u2"), JPEG + "202", [dicom_streams.HTJ2K])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FormatError) as error:
        decode_frames([make_frame(instance)])
    assert error.value.code == "DICOM_DECODER"
    assert "High-Throughput JPEG 2000" in error.value.message
    assert error.value.hint == "pip install pylibjpeg-openjpeg"


def test_compressed_floating_point_is_refused(tmp_path: Path) -> None:
    instance = write_compressed(tmp_path / "a.dcm", ramp("u4"), RLE, [b"?"])
    assert instance.pixels is not None
    other = replace(instance, pixels=replace(instance.pixels, kind="float"))
    with pytest.raises(FormatError, match="floating point"):
        decode_frames([make_frame(other)])
