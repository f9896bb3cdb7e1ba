from __future__ import annotations

import io as streams
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg import io
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.io import png

RNG = np.random.default_rng(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(array: np.ndarray, bits: int, colour: int, extra: bytes = b"") -> bytes:
    """Encode (rows, columns, samples) bit by bit, independently of the writer under test."""
    rows, columns, _ = array.shape
    places = array[..., None] >> np.arange(bits - 1, -1, -1) & 1
    lines = np.packbits(places.reshape(rows, -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0)
    return (
        png.SIGNATURE
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def make_tiff(array: np.ndarray, **options: object) -> bytes:
    stream = streams.BytesIO()
    Image.fromarray(array).save(stream, "TIFF", **options)
    return stream.getvalue()


def make_plain_tiff(array: np.ndarray, order: str = "<", **tags: int) -> bytes:
    """Encode (rows, columns, samples) as one uncompressed strip; `tags` are `t<number>=value`."""
    rows, columns, samples = array.shape
    bits = array.dtype.itemsize * 8
    voxels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    start = 8 + 2 + 16 * 12 + 4
    fields = {
        256: columns,
        257: rows,
        258: bits,
        259: 1,
        262: 1 if samples == 1 else 2,
        273: start + samples * 2,
    }
    fields |= {277: samples, 278: rows, 279: len(voxels)} | {
        int(name[1:]): value for name, value in tags.items()
    }
    entries = b""
    for tag, value in sorted(fields.items()):
        if tag == 258 and samples > 1:
            shorts = struct.pack(f"{order}{samples}H", *[bits] * samples)
            at = start
            entries += struct.pack(order + "HHII", tag, 3, samples, at)
            continue
        entries += struct.pack(order + "HHII", tag, 4, 1, value)
    shorts = struct.pack(f"{order}{samples}H", *[bits] * samples)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(fields)) + entries
    return (head + bytes(4)).ljust(start, b"\0") + shorts + voxels


def code_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        io.read_volume(path)
    assert caught.value.hint
    assert path.name not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (6, 4)])
def test_png_values_are_read_as_stored(bits: int, colour: int, samples: int, tmp_path: Path) -> None:
    array = RNG.integers(0, 2**bits, (5, 7, samples))
    (tmp_path / "a.png").write_bytes(make_png(array, bits, colour))
    volume = io.read_volume(tmp_path / "a.png")
    assert volume.array.dtype == f"u{bits // 8}"
    assert np.array_equal(volume.array, array.transpose(2, 0, 1)[..., None])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_values_of_few_bits_are_not_stretched(bits: int, tmp_path: Path) -> None:
    array = RNG.integers(0, 2**bits, (5, 7, 1))
    (tmp_path / "a.png").write_bytes(make_png(array, bits, 0))
    assert np.array_equal(io.read_labels(tmp_path / "a.png").array, array)


def test_row_is_the_first_axis_and_the_grid_is_the_identity(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png(np.zeros((5, 7, 1), int), 8, 0))
    for geometry in (io.read_volume(tmp_path / "a.png").geometry, io.read_geometry(tmp_path / "a.png")):
        assert geometry.shape == (5, 7, 1)
        assert np.array_equal(geometry.affine, np.eye(4))


def test_constant_alpha_is_dropped(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (5, 7, 4))
    array[..., 3] = 255
    (tmp_path / "a.png").write_bytes(make_png(array, 8, 6))
    assert np.array_equal(io.read_volume(tmp_path / "a.png").array[..., 0], array.transpose(2, 0, 1)[:3])


def test_palette_is_read_as_its_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    array = RNG.integers(0, 256, (5, 7, 1))
    (tmp_path / "a.png").write_bytes(make_png(array, 8, 3, chunk(b"PLTE", colours.tobytes())))
    assert np.array_equal(
        io.read_volume(tmp_path / "a.png").array[..., 0], colours[array[..., 0]].transpose(2, 0, 1)
    )


def test_palette_is_not_a_label_map(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(make_png(np.full((5, 7, 1), 3), 8, 3, chunk(b"PLTE", colours.tobytes())))
    with pytest.raises(DataError) as caught:
        io.read_labels(tmp_path / "a.png")
    assert caught.value.code == "LABEL_CHANNELS"


def test_gray_mask_stored_in_colour_is_a_label_map(tmp_path: Path) -> None:
    array = np.repeat(RNG.integers(0, 256, (5, 7, 1)), 3, axis=2)
    (tmp_path / "a.png").write_bytes(make_png(array, 8, 2))
    assert np.array_equal(io.read_labels(tmp_path / "a.png").array[..., 0], array[..., 0])


@pytest.mark.parametrize(
    ("colour", "samples", "extra"),
    [(4, 2, b""), (0, 1, chunk(b"tRNS", b"\0\1")), (0, 1, chunk(b"sBIT", b"\4"))],
)
def test_png_variants_that_would_decode_to_other_values_are_refused(
    colour: int, samples: int, extra: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(make_png(RNG.integers(0, 256, (5, 7, samples)), 8, colour, extra))
    assert code_of(tmp_path / "a.png") == "PNG_LAYOUT"


def test_no_prefix_of_a_png_is_ever_read(tmp_path: Path) -> None:
    data = make_png(RNG.integers(0, 256, (5, 7, 3)), 8, 2)
    for length in range(len(data)):
        (tmp_path / "a.png").write_bytes(data[:length])
        assert code_of(tmp_path / "a.png") in ("PNG_EMPTY", "PNG_TRUNCATED")


def test_no_changed_byte_of_a_png_passes_unseen(tmp_path: Path) -> None:
    data = make_png(RNG.integers(0, 256, (5, 7, 3)), 8, 2)
    for at in range(len(data)):
        (tmp_path / "a.png").write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert code_of(tmp_path / "a.png").startswith("PNG_")


def test_png_with_too_few_lines_is_refused(tmp_path: Path) -> None:
    good = make_png(RNG.integers(0, 256, (5, 7, 1)), 8, 0)
    header = struct.pack(">IIBBBBB", 7, 6, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + chunk(b"IHDR", header) + good[33:])
    assert code_of(tmp_path / "a.png") == "PIXELS_DECODE"


def test_png_header_that_asks_for_too_much_is_refused(tmp_path: Path) -> None:
    good = make_png(RNG.integers(0, 256, (5, 7, 1)), 8, 0)
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + chunk(b"IHDR", header) + good[33:])
    assert code_of(tmp_path / "a.png") == "PNG_TOO_LARGE"


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_gray_tiff_is_read_as_stored(dtype: str, order: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 120, (5, 7, 1)).astype(dtype)
    kind = {"u": 1, "i": 2, "f": 3}[dtype[0]]
    (tmp_path / "a.tif").write_bytes(make_plain_tiff(array, order, t339=kind))
    volume = io.read_volume(tmp_path / "a.tif")
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array[0], array)
    assert io.read_geometry(tmp_path / "a.tif").shape == (5, 7, 1)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colour_tiff_is_read_as_stored(dtype: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 2 ** (8 * int(dtype[1])), (5, 7, 3)).astype(dtype)
    (tmp_path / "a.tiff").write_bytes(make_plain_tiff(array))
    assert np.array_equal(io.read_volume(tmp_path / "a.tiff").array[..., 0], array.transpose(2, 0, 1))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read_as_stored(compression: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (tmp_path / "a.tif").write_bytes(make_tiff(array, compression=compression))
    assert np.array_equal(io.read_volume(tmp_path / "a.tif").array[..., 0], array.transpose(2, 0, 1))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_no_prefix_of_a_tiff_is_ever_read(compression: str | None, tmp_path: Path) -> None:
    data = make_tiff(RNG.integers(0, 256, (20, 30), dtype=np.uint8), compression=compression)
    whole = len(data)
    while data[:whole].endswith(b"\0"):
        whole -= 1  # the last bytes may be padding
    for length in [*range(0, whole - 8, 7), whole - 8]:
        (tmp_path / "a.tif").write_bytes(data[:length])
        with pytest.raises(DataError):
            io.read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("array", "tags", "code"),
    [
        (np.zeros((5, 7, 1), "u1"), {"t262": 0}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "u1"), {"t262": 3}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "u1"), {"t274": 3}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "u1"), {"t322": 16}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "u1"), {"t259": 7}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "f8"), {"t339": 3}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 3), "u1"), {"t284": 2}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 5), "u1"), {}, "TIFF_LAYOUT"),
        (np.zeros((5, 7, 1), "u1"), {"t257": 6}, "TIFF_TRUNCATED"),
        (np.zeros((5, 7, 1), "u1"), {"t279": 34}, "TIFF_TRUNCATED"),
        (np.zeros((5, 7, 1), "u1"), {"t257": 0}, "TIFF_HEADER"),
        (np.full((5, 7, 1), np.nan, "f4"), {"t339": 3}, "VOXELS_NOT_FINITE"),
    ],
)
def test_tiff_that_would_decode_to_other_values_is_refused(
    array: np.ndarray, tags: dict[str, int], code: str, tmp_path: Path
) -> None:
    (tmp_path / "a.tif").write_bytes(make_plain_tiff(array, **tags))
    assert code_of(tmp_path / "a.tif") == code


def test_tiff_of_two_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(np.zeros((5, 7), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    assert code_of(tmp_path / "a.tif") == "TIFF_LAYOUT"


@pytest.mark.parametrize(("name", "code"), [("a.png", "PNG_HEADER"), ("a.tif", "TIFF_HEADER")])
def test_text_under_a_picture_name_is_refused(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("patient,age\n" * 100)
    assert code_of(tmp_path / name) == code


@pytest.mark.parametrize(("top", "dtype"), [(3, np.uint8), (300, np.uint16)])
def test_2d_mask_is_written_as_png(top: int, dtype: type, tmp_path: Path) -> None:
    values = RNG.integers(0, top + 1, (5, 7, 1))
    values[0, 0] = top
    grid = Geometry.of_spacing((5, 7, 1), (1, 1, 1))
    io.write_labels(tmp_path / "a.png", Labels(values, grid))
    back = io.read_labels(tmp_path / "a.png")
    assert back.array.dtype == dtype
    assert np.array_equal(back.array, values)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), values[..., 0])


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colour_png_comes_back(dtype: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (3, 5, 7, 1)).astype(dtype)
    io.write_volume(tmp_path / "a.png", Volume(array, Geometry.of_spacing((5, 7, 1), (1, 1, 1))))
    assert np.array_equal(io.read_volume(tmp_path / "a.png").array, array)


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.full((5, 7, 1), 70000), "a.png"),
        (np.full((5, 7, 1), -1), "a.png"),
        (np.zeros((5, 7, 2), int), "a.png"),
        (np.zeros((5, 7, 1), int), "a.tif"),
    ],
)
def test_what_png_cannot_hold_is_not_written(array: np.ndarray, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        io.write_labels(tmp_path / name, Labels(array, Geometry.of_spacing(array.shape, (1, 1, 1))))
    assert caught.value.code == "PIXELS_WRITE"
    assert not list(tmp_path.iterdir())
