"""One file's header: what counts as DICOM, and which pixel layouts are refused before anything is read."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from medseg.core.errors import FormatError
from medseg.io.dicom.elements import quiet, read_meta
from medseg.io.dicom.header import read_instance
from medseg.io.dicom.layout import check_layout
from medseg.io.dicom.scan import Pixels
from tests.dicom_files import write_series

NATIVE = Pixels("1.2.840.10008.1.2.1", 500, 84, 6, 7, 1, 1, 16, 12, 11, False, "MONOCHROME2")


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    write_series(tmp_path)
    return tmp_path / "slice_000.dcm"


def test_text_is_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ISO_IR 100 and other words that fill sixteen bytes")
    assert read_instance(tmp_path / "a.txt") is None


def test_empty_file_named_as_dicom_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").touch()
    with pytest.raises(FormatError) as caught:
        read_instance(tmp_path / "a.dcm")
    assert caught.value.code == "DICOM_DAMAGED"


def test_file_that_ends_before_it_says_what_it_is_is_damaged(slice_file: Path) -> None:
    slice_file.write_bytes(slice_file.read_bytes()[:400])
    with quiet(), pytest.raises(FormatError) as caught:
        read_instance(slice_file)
    assert caught.value.code == "DICOM_DAMAGED"


def test_file_without_the_mark_is_read(slice_file: Path) -> None:
    data = slice_file.read_bytes()
    slice_file.write_bytes(data[132:])
    with quiet():
        found = read_instance(slice_file)
    assert found is not None
    assert found[0].modality == "CT"


def test_pixels_are_found_without_being_read(slice_file: Path) -> None:
    with quiet():
        found = read_instance(slice_file)
    assert found is not None
    pixels = found[0].pixels
    assert pixels is not None
    assert pixels.offset + pixels.length == slice_file.stat().st_size


def test_meta_stops_at_the_data_set(slice_file: Path) -> None:
    stream = BytesIO(slice_file.read_bytes())
    stream.seek(132)
    assert read_meta(stream)[0x00020010] == "1.2.840.10008.1.2.1"
    assert stream.read(2) == b"\x08\x00"


def test_good_layout_passes() -> None:
    assert check_layout(NATIVE, 584) is None


@pytest.mark.parametrize(
    ("change", "size", "code"),
    [
        ({"rows": 0}, 584, "DICOM_HEADER"),
        ({"columns": -1}, 584, "DICOM_HEADER"),
        ({"frames": 0}, 584, "DICOM_HEADER"),
        ({"bits_allocated": 13}, 584, "DICOM_HEADER"),
        ({"bits_stored": 17}, 584, "DICOM_HEADER"),
        ({"high_bit": 10}, 584, "DICOM_HEADER"),
        ({"photometric": ""}, 584, "DICOM_HEADER"),
        ({"rows": 60000, "columns": 60000}, 584, "DICOM_TOO_LARGE"),
        ({"frames": 10**9}, 584, "DICOM_TOO_LARGE"),
        ({"frames": 2}, 584, "DICOM_TRUNCATED"),
        ({}, 583, "DICOM_TRUNCATED"),
        ({"length": 82}, 584, "DICOM_TRUNCATED"),
        ({"syntax": "1.2.840.10008.1.2.4.90", "offset": -1}, 584, "DICOM_HEADER"),
        (
            {"syntax": "1.2.840.10008.1.2.4.90", "offset": -1, "length": -1, "frames": 80},
            584,
            "DICOM_TRUNCATED",
        ),
    ],
    ids=lambda value: str(value),
)
def test_impossible_layout_is_refused(change: dict[str, object], size: int, code: str) -> None:
    error = check_layout(replace(NATIVE, **change), size)  # type: ignore[arg-type]
    assert error is not None
    assert error.code == code
