from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import DataError, FormatError
from medseg.io.dicom.pixels.decode import decode_frames, inflate
from tests.dicom_pixels import (
    BIG_ENDIAN,
    COLUMNS,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    ROWS,
    decode,
    header,
    make_frame,
    ramp,
    save,
    write_native,
)

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED])
def test_uncompressed_pixels_keep_value_type_and_place(tmp_path: Path, syntax: str, dtype: str) -> None:
    low = 0 if dtype[0] == "u" else -60
    array = ramp(dtype, low)
    (found,) = decode(write_native(tmp_path / "a.dcm", array, syntax))
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_words_of_big_endian_are_swapped(tmp_path: Path, dtype: str) -> None:
    array = ramp(dtype, 300)
    (found,) = decode(write_native(tmp_path / "a.dcm", array, BIG_ENDIAN))
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_bytes_of_big_endian_are_swapped_in_pairs_only_where_they_are_words(tmp_path: Path, vr: str) -> None:
    array = ramp("u1")
    (found,) = decode(write_native(tmp_path / "a.dcm", array, BIG_ENDIAN, vr))
    np.testing.assert_array_equal(found, array)


def test_frames_of_an_odd_number_of_paired_bytes_share_words(tmp_path: Path) -> None:
    frames = ramp("u1", frames=3)[:, :5, :3]
    found = decode(write_native(tmp_path / "a.dcm", np.ascontiguousarray(frames), BIG_ENDIAN), 1, 2, 0)
    np.testing.assert_array_equal(found, frames[[1, 2, 0]])


def test_integers_of_32_bits_in_big_endian_are_refused_since_writers_disagree(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="32 bit integers in big endian") as error:
        decode(write_native(tmp_path / "a.dcm", ramp("u4"), BIG_ENDIAN))
    assert error.value.code == "DICOM_DECODE"


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize(("tag", "vr", "dtype"), [(0x7FE00008, "OF", "f4"), (0x7FE00009, "OD", "f8")])
def test_pixels_of_floating_point_are_exact(
    tmp_path: Path, syntax: str, tag: int, vr: str, dtype: str
) -> None:
    array = ramp(dtype) / np.dtype(dtype).type(7)
    data = array.astype(array.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
    (found,) = decode(save(tmp_path / "a.dcm", header(array, syntax), tag, vr, data))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("syntax", "vr"),
    [(IMPLICIT, "OW"), (EXPLICIT, "OB"), (DEFLATED, "OB"), (BIG_ENDIAN, "OB"), (BIG_ENDIAN, "OW")],
)
def test_bits_of_frames_that_share_a_byte_are_unpacked(tmp_path: Path, syntax: str, vr: str) -> None:
    frames = np.random.default_rng(0).integers(0, 2, (4, 5, 3)).astype("u1")  # 15 bits a frame
    data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    if (syntax, vr) == (BIG_ENDIAN, "OW"):
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    dataset = header(frames, syntax, BitsAllocated=1, BitsStored=1)
    found = decode(save(tmp_path / "a.dcm", dataset, 0x7FE00010, vr, data), 3, 1, 2, 0)
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(found, frames[[3, 1, 2, 0]])


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_frames_come_in_the_order_asked_also_twice(tmp_path: Path, syntax: str) -> None:
    frames = ramp("i2", -100, frames=4)
    found = decode(write_native(tmp_path / "a.dcm", frames, syntax), 2, 0, 2, 3)
    np.testing.assert_array_equal(found, frames[[2, 0, 2, 3]])


def test_frames_of_several_files_may_take_turns(tmp_path: Path) -> None:
    first = write_native(tmp_path / "a.dcm", ramp("u2", frames=2))
    second = write_native(tmp_path / "b.dcm", ramp("i4", -9), IMPLICIT)
    asked = [make_frame(first, 1), make_frame(second), make_frame(first, 0)]
    one, two, three = decode_frames(asked)
    assert (one[0, 0], two[0, 0], three[0, 0]) == (120, -9, 0)


def test_arrays_may_be_written_to(tmp_path: Path) -> None:
    (found,) = decode(write_native(tmp_path / "a.dcm", ramp("i2")))
    found += 1
    assert found[0, 0] == 1


# Bits around the value


def test_unsigned_high_bits_are_masked_and_told(tmp_path: Path) -> None:
    array, notes = ramp("u2", 4000 - 119), set[str]()
    instance = write_native(tmp_path / "a.dcm", array | 0xA000, BitsStored=12)
    (found,) = decode(instance, notes=notes)
    np.testing.assert_array_equal(found, array)
    assert notes == {"DICOM_HIGH_BITS"}


def test_signed_high_bits_are_replaced_by_the_sign_and_told(tmp_path: Path) -> None:
    array, notes = ramp("i2", -60), set[str]()
    instance = write_native(tmp_path / "a.dcm", (array & 0x0FFF) | 0x5000, BitsStored=12)
    (found,) = decode(instance, notes=notes)
    np.testing.assert_array_equal(found, array)
    assert notes == {"DICOM_HIGH_BITS"}


@pytest.mark.parametrize("mask", [0xFFFF, 0x0FFF], ids=["sign extended", "zeros"])
def test_high_bits_that_continue_the_sign_or_are_zero_are_not_told(tmp_path: Path, mask: int) -> None:
    array, notes = ramp("i2", -60), set[str]()
    stored = (array.view("u2") & mask).view("i2")
    (found,) = decode(write_native(tmp_path / "a.dcm", stored, BitsStored=12), notes=notes)
    np.testing.assert_array_equal(found, array)
    assert not notes


def test_a_frame_that_extends_the_sign_of_some_pixels_only_is_told(tmp_path: Path) -> None:
    array, notes = ramp("i2", -60), set[str]()
    stored = array.copy()
    stored[0, 0] &= 0x0FFF
    decode(write_native(tmp_path / "a.dcm", stored, BitsStored=12), notes=notes)
    assert notes == {"DICOM_HIGH_BITS"}


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_a_value_that_ends_at_a_higher_bit_is_shifted_down(tmp_path: Path, dtype: str) -> None:
    array, notes = ramp(dtype, 0 if dtype == "u2" else -60), set[str]()
    instance = write_native(tmp_path / "a.dcm", array << 4, BitsStored=12, HighBit=15)
    (found,) = decode(instance, notes=notes)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)
    assert not notes


def test_an_overlay_below_the_value_is_told(tmp_path: Path) -> None:
    array, notes = ramp("u2"), set[str]()
    decode(write_native(tmp_path / "a.dcm", array << 4 | 1, BitsStored=12, HighBit=15), notes=notes)
    assert notes == {"DICOM_HIGH_BITS"}


def test_the_smallest_and_largest_value_survive_all_bits(tmp_path: Path) -> None:
    array = np.array([[-(1 << 31), (1 << 31) - 1]], "i4")
    (found,) = decode(write_native(tmp_path / "a.dcm", array))
    np.testing.assert_array_equal(found, array)


# What is refused


@pytest.mark.parametrize("lost", [1, 100, 239])
def test_a_file_that_was_cut_off_is_refused_with_numbers(tmp_path: Path, lost: int) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u2"))
    instance.path.write_bytes(instance.path.read_bytes()[:-lost])
    with pytest.raises(FormatError, match=f"{240 - lost} bytes .* asks for 240") as error:
        decode_frames([make_frame(instance)])
    assert error.value.code == "DICOM_TRUNCATED"


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_fewer_bytes_than_frames_need_are_refused(tmp_path: Path, syntax: str) -> None:
    with pytest.raises(FormatError, match=r"480 bytes .* asks for 720") as error:
        decode(write_native(tmp_path / "a.dcm", ramp("u2", frames=2), syntax, NumberOfFrames=3), 0)
    assert error.value.code == "DICOM_TRUNCATED"


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
@pytest.mark.parametrize("wrong", [{"Rows": ROWS // 2}, {"Columns": COLUMNS - 1}, {"BitsAllocated": 8}])
def test_more_pixels_than_the_header_describes_are_refused(
    tmp_path: Path, syntax: str, wrong: dict[str, int]
) -> None:
    if "BitsAllocated" in wrong:
        wrong["BitsStored"] = 8
    with pytest.raises(FormatError, match="240 bytes of pixel data where the header describes") as error:
        decode(write_native(tmp_path / "a.dcm", ramp("u2", 1), syntax, **wrong))
    assert error.value.code == "DICOM_HEADER"


def test_zeros_after_the_last_frame_are_padding(tmp_path: Path) -> None:
    array = ramp("u2")
    data = array.tobytes() + bytes(20)
    (found,) = decode(save(tmp_path / "a.dcm", header(array, EXPLICIT), 0x7FE00010, "OW", data))
    np.testing.assert_array_equal(found, array)


def test_a_frame_of_zeros_too_many_is_refused(tmp_path: Path) -> None:
    array = ramp("u2")
    instance = save(
        tmp_path / "a.dcm", header(array, EXPLICIT), 0x7FE00010, "OW", array.tobytes() + bytes(240)
    )
    with pytest.raises(FormatError, match="480 bytes"):
        decode(instance)


def test_several_samples_a_pixel_are_no_intensities(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u1"))
    assert instance.pixels is not None
    colour = replace(instance, pixels=replace(instance.pixels, samples=3))
    with pytest.raises(DataError) as error:
        decode_frames([make_frame(colour)])
    assert error.value.code == "DICOM_COLOUR"


def test_a_number_of_bits_without_a_type_is_refused(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u8"))
    with pytest.raises(FormatError, match="64 bits allocated") as error:
        decode_frames([make_frame(instance)])
    assert error.value.code == "DICOM_HEADER"


def test_an_absurd_number_of_compressed_pixels_is_refused_before_anything_starts(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u1"), DEFLATED)
    assert instance.pixels is not None
    absurd = replace(instance, pixels=replace(instance.pixels, rows=60000, columns=60000))
    with pytest.raises(FormatError, match="3600000000 pixels") as error:
        decode_frames([make_frame(absurd)])
    assert error.value.code == "DICOM_TOO_LARGE"


def test_a_file_that_is_gone_is_named_missing(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u1"))
    instance.path.unlink()
    with pytest.raises(DataError) as error:
        decode_frames([make_frame(instance)])
    assert error.value.code == "FILE_MISSING"


def test_a_file_that_shrinks_between_the_check_and_the_reading_is_refused(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u2"))
    frames = decode_frames([make_frame(instance)])
    instance.path.write_bytes(instance.path.read_bytes()[:-10])
    with pytest.raises(FormatError, match="230 bytes"):
        next(frames)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.2.3", "an unknown transfer syntax")],
)
def test_a_syntax_without_decoder_is_named_in_words(tmp_path: Path, syntax: str, name: str) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u1"))
    assert instance.pixels is not None
    other = replace(instance, pixels=replace(instance.pixels, syntax=syntax))
    with pytest.raises(FormatError, match=f"no decoder for {name}") as error:
        decode_frames([make_frame(other)])
    assert error.value.code == "DICOM_DECODER"


# Deflate


def test_inflating_stops_at_its_limit() -> None:
    bomb = zlib.compress(bytes(1 << 20), wbits=-15)
    with pytest.raises(FormatError, match="more than 1000 bytes") as error:
        inflate(bomb, 1000)
    assert error.value.code == "DICOM_TOO_LARGE"


def test_what_inflates_to_exactly_the_limit_is_returned() -> None:
    assert inflate(zlib.compress(bytes(1000), wbits=-15), 1000) == bytes(1000)


def test_a_deflated_stream_that_breaks_off_is_refused() -> None:
    with pytest.raises(FormatError) as error:
        inflate(zlib.compress(bytes(range(256)), wbits=-15)[:-9], 1000)
    assert error.value.code == "DICOM_TRUNCATED"


def test_bytes_that_are_not_deflated_are_refused() -> None:
    with pytest.raises(FormatError) as error:
        inflate(b"\xff" * 40, 1000)
    assert error.value.code == "DICOM_DAMAGED"


def test_a_deflated_bomb_behind_a_small_header_is_refused(tmp_path: Path) -> None:
    instance = write_native(tmp_path / "a.dcm", ramp("u2"), DEFLATED)
    data = instance.path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    bomb = zlib.compress(bytes(1 << 28), wbits=-15)
    instance.path.write_bytes(data[:start] + bomb)
    with pytest.raises(FormatError) as error:
        decode(instance)
    assert error.value.code == "DICOM_TOO_LARGE"
