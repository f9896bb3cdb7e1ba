"""Series that are good, whatever their numbers and bytes look like: each must be read without a warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.dicom_edits import Build, Case, accept, append, beside, both, drop, joined, one, put, raw
from tests.dicom_files import (
    AROUND_ZERO,
    AXIAL,
    FLAT_RAMP,
    LARGE,
    SMALL_RAMP,
    Edit,
    Ramp,
    Store,
    Truth,
    write_series,
)


def add_icon(dataset: Dataset, k: int) -> None:
    """Add a thumbnail with rows, columns and pixel data of its own, before the real ones."""
    icon = Dataset()
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.BitsStored, icon.HighBit = 2, 2, 8, 8, 7
    icon.PixelRepresentation = 0
    icon.add_new(0x7FE00010, "OW", bytes([1, 2, 3, 4]))
    dataset.IconImageSequence = Items([icon])


def add_private(dataset: Dataset, k: int) -> None:
    """Add a private megabyte that looks like pixel data when bytes are searched, and a private sequence."""
    block = dataset.private_block(0x0029, "PHANTOM", create=True)
    fake = b"\xe0\x7f\x10\x00OW\x00\x00\x54\x00\x00\x00" + bytes(84)
    block.add_new(0x10, "OB", fake * 5000)
    item = Dataset()
    item.ImagePositionPatient = ["0", "0", str(k)]
    item.ImageOrientationPatient = ["0", "1", "0", "0", "0", "1"]
    item.PixelSpacing = ["9", "9"]
    block.add_new(0x11, "SQ", Items([item]))


def add_overlay(dataset: Dataset, k: int) -> None:
    dataset.add_new(0x60000010, "US", 6)
    dataset.add_new(0x60000011, "US", 7)
    dataset.add_new(0x60003000, "OW", bytes(6))


def as_unknown(name: str) -> Edit:
    """Store an element with the type "unknown", as archives do that do not know it."""

    def edit(dataset: Dataset, k: int) -> None:
        value = dataset[name].value
        text = "\\".join(str(v) for v in value).encode()
        raw(name, text, "UN")(dataset, k)

    return edit


def strip_start(count: int) -> Build:
    """Write files that lack their first bytes: the preamble (128), "DICM" too, or the file header as well."""

    def make(folder: Path) -> tuple[Truth, ...]:
        truth = write_series(folder, store=Store(syntax=ImplicitVRLittleEndian))
        for path in folder.glob("*.dcm"):
            data = path.read_bytes()
            length = int.from_bytes(data[140:144], "little")  # of the file header's group
            path.write_bytes(data[count or 144 + length :])
        return (truth,)

    return make


VALUES = [
    accept(
        "rescale_by_slice",
        one(kind="PT", store=Store(rescale=((0.037, 0), (0.041, 0), (0.05, 0), (0.06, 0), (0.1, 0)))),
    ),
    accept("intercept_by_slice", one(store=Store(signed=True, rescale=((1, -1024), (1, 0), (1, 24))))),
    accept("slope_fraction", one(store=Store(rescale=((0.125, -12.5),)))),
    accept("slope_negative", one(store=Store(rescale=((-1, 4095),)))),
    accept("slope_of_ten", one(store=Store(signed=True, rescale=((10, 3),)))),
    accept("intercept_only", one(store=Store(stored=12, rescale=((1, -1024),)), ramp=Ramp(base=200))),
    accept("rescale_absent", one(store=Store(rescale=()))),
    accept("signed", one(store=Store(signed=True), ramp=AROUND_ZERO)),
    accept("signed_12_bits_sign_not_extended", one(store=Store(signed=True, stored=12), ramp=AROUND_ZERO)),
    accept("unsigned_above_32767", one(ramp=Ramp(base=50000.0))),
    accept("result_beyond_16_bits", one(store=Store(rescale=((1, 30000),)), ramp=Ramp(base=80000.0))),
    accept("uint8", one(store=Store(bits=8), ramp=SMALL_RAMP)),
    accept("odd_number_of_bytes", one(replace(AXIAL, rows=5), store=Store(bits=8), ramp=SMALL_RAMP)),
    accept("int8", one(store=Store(bits=8, signed=True), ramp=replace(SMALL_RAMP, base=0))),
    accept("uint32", one(store=Store(bits=32), ramp=Ramp(base=3e6), slack=0.8)),
    accept("int32", one(store=Store(bits=32, signed=True), ramp=Ramp(base=-3e6), slack=0.8)),
    accept("high_bit_at_the_top", one(store=Store(stored=12, high=15))),
    accept(
        "types_differ_by_slice",
        joined(
            one(replace(AXIAL, at=(0.0, 2.0, 4.0)), store=Store(signed=True)),
            one(replace(AXIAL, at=(1.0, 3.0)), first=10),
        ),
    ),
    accept("padding_value", one(edit=put(PixelPaddingValue=0))),
]

STORAGE = [
    accept("implicit", one(store=Store(syntax=ImplicitVRLittleEndian))),
    accept("big_endian", one(store=Store(syntax=ExplicitVRBigEndian, signed=True), ramp=AROUND_ZERO)),
    accept("big_endian_uint8", one(store=Store(bits=8, syntax=ExplicitVRBigEndian), ramp=SMALL_RAMP)),
    accept("implicit_uint8", one(store=Store(bits=8, syntax=ImplicitVRLittleEndian), ramp=SMALL_RAMP)),
    accept("deflated", one(store=Store(syntax=DeflatedExplicitVRLittleEndian))),
    accept("rle", one(store=Store(syntax=RLELossless, stored=12))),
    accept("rle_signed", one(store=Store(syntax=RLELossless, signed=True), ramp=AROUND_ZERO)),
    accept("jpeg_ls", one(store=Store(syntax=JPEGLSLossless, stored=12))),
    accept(
        "jpeg_ls_signed", one(store=Store(syntax=JPEGLSLossless, signed=True, stored=12), ramp=AROUND_ZERO)
    ),
    accept("jpeg_lossless", one(store=Store(syntax=JPEGLosslessSV1))),
    accept("jpeg_lossless_process_14", one(store=Store(syntax=JPEGLossless, stored=12))),
    accept("jpeg_lossless_signed", one(store=Store(syntax=JPEGLosslessSV1, signed=True), ramp=AROUND_ZERO)),
    accept("jpeg_2000", one(LARGE, store=Store(syntax=JPEG2000Lossless, stored=12), ramp=FLAT_RAMP)),
    accept(
        "jpeg_2000_signed",
        one(LARGE, store=Store(syntax=JPEG2000Lossless, signed=True), ramp=replace(FLAT_RAMP, base=-100)),
    ),
    accept(
        "syntaxes_differ_by_slice",
        joined(
            one(replace(AXIAL, at=(0.0, 2.0, 4.0))),
            one(replace(AXIAL, at=(1.0, 3.0)), store=Store(syntax=RLELossless), first=10),
        ),
    ),
    accept("no_preamble", strip_start(128)),
    accept("no_preamble_and_no_prefix", strip_start(132)),
    accept("no_file_header", strip_start(0)),
    accept("zeros_after_the_end", beside(one(), append("slice_002.dcm", bytes(64)))),
    accept("trailing_padding", one(edit=lambda d, k: d.add_new(0xFFFCFFFC, "OB", bytes(10)))),
    accept("icon_with_pixel_data", one(edit=add_icon)),
    accept("private_megabyte", one(edit=add_private)),
    accept("overlay", one(edit=add_overlay)),
    accept("number_of_frames_empty", one(edit=raw("NumberOfFrames", b"", "IS"))),
    accept("number_of_frames_is_one", one(edit=put(NumberOfFrames=1))),
    accept(
        "positions_of_unknown_type",
        one(edit=both(as_unknown("ImagePositionPatient"), as_unknown("PixelSpacing"))),
    ),
    accept("numbers_with_blanks", one(edit=raw("PixelSpacing", b" 1.25 \\ +7.5e-1 "))),
    accept(
        "numbers_longer_than_allowed",
        one(edit=raw("PixelSpacing", b"1.250000000000000000\\0.7500000000000000001")),
    ),
    accept(
        "names_in_other_scripts",
        one(
            edit=both(
                put(SpecificCharacterSet=["", "ISO 2022 IR 87"]), raw("PatientName", b"\x1b$B;3ED\x1b(B^A")
            )
        ),
    ),
    accept("names_of_no_script", one(edit=raw("PatientName", bytes(range(0x80, 0x9F))))),
    accept("character_set_unknown", one(edit=put(SpecificCharacterSet="NONSENSE 8"))),
    accept(
        "character_set_absent", one(edit=both(drop("SpecificCharacterSet"), raw("PatientName", b"M\xfcller")))
    ),
    accept(
        "nonsense_where_it_does_not_matter",
        one(
            edit=both(
                raw("StudyDate", b"yesterday"),
                raw("PatientAge", b"old", "AS"),
                raw("KVP", b"n/a", "DS"),
                raw("WindowCenter", b"wide", "DS"),
                raw("SliceLocation", b"?", "DS"),
                raw("SeriesNumber", b"7.5.1"),
                raw("AcquisitionNumber", b"first", "IS"),
            )
        ),
    ),
]

ACCEPT: list[Case] = [*VALUES, *STORAGE]
