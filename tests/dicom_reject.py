"""Files and objects that no volume can be made of: each folder is refused with its code."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from tests.dicom_edits import (
    Build,
    Case,
    beside,
    both,
    drop,
    one,
    only,
    place,
    put,
    reject,
    truncate,
)
from tests.dicom_files import AXIAL, Edit, Ramp, Store, Truth, write_series
from tests.dicom_objects import (
    Write,
    write_dose,
    write_key_objects,
    write_localizer,
    write_pdf,
    write_presentation,
    write_report,
    write_segmentation,
    write_structures,
)


def write_nuclear(folder: Path) -> tuple[Truth, ...]:
    """Write a reconstructed NM object: one position in a sequence of its own, the slices' step elsewhere."""

    def edit(dataset: Dataset, k: int) -> None:
        detector = Dataset()
        detector.ImagePositionPatient = dataset.ImagePositionPatient
        detector.ImageOrientationPatient = dataset.ImageOrientationPatient
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.SOPClassUID, dataset.Modality = NuclearMedicineImageStorage, "NM"
        dataset.DetectorInformationSequence = Items([detector])
        dataset.NumberOfFrames, dataset.SpacingBetweenSlices = 3, "-3"
        dataset.SliceVector = [1, 2, 3]
        dataset.PixelData = bytes(dataset.PixelData) * 3

    write_series(folder, replace(AXIAL, at=(0.0,)), edit=edit)
    return ()


def alone(*writers: Write) -> Build:
    """Return a builder of a folder without a scan."""
    return beside(lambda folder: (), *writers)


def colour(photometric: str, samples: int) -> Edit:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = photometric, samples
        dataset.PlanarConfiguration = 0
        dataset.PixelData = bytes(dataset.PixelData) * samples
        if photometric.startswith("PALETTE"):
            for name in ("Red", "Green", "Blue"):
                setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
                setattr(dataset, f"{name}PaletteColorLookupTableData", bytes(512))

    return edit


def number_of_tiles(dataset: Dataset, k: int) -> None:
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)


def shorten(dataset: Dataset, k: int) -> None:
    dataset.PixelData = bytes(dataset.PixelData)[:-14]


def lengthen(dataset: Dataset, k: int) -> None:
    dataset.PixelData = bytes(dataset.PixelData) * 2


def claim_encapsulated(syntax: str) -> Write:
    """Return a change of slice 2's file header: another transfer syntax than it has."""

    def write(folder: Path) -> None:
        path = folder / "slice_002.dcm"
        data = path.read_bytes()
        old = b"1.2.840.10008.1.2.1\0"
        assert old in data
        path.write_bytes(data.replace(old, syntax.encode().ljust(len(old), b"\0")))

    return write


def fill(byte: int) -> Write:
    """Return a change of slice 4: every byte of the file is the same, as after a failed disk."""

    def write(folder: Path) -> None:
        path = folder / "slice_004.dcm"
        path.write_bytes(bytes([byte]) * path.stat().st_size)

    return write


def gzip_last(folder: Path) -> None:
    path = folder / "slice_004.dcm"
    path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def dangling(folder: Path) -> None:
    (folder / "slice_004.dcm").unlink()
    (folder / "slice_004.dcm").symlink_to("not/fetched")


ABSURD = put(Rows=60000, Columns=60000)

FILES = [
    reject("last_file_truncated", "DICOM_TRUNCATED", beside(one(), truncate("slice_004.dcm", -50))),
    reject("first_file_truncated", "DICOM_TRUNCATED", beside(one(), truncate("slice_000.dcm", -1))),
    reject("middle_file_truncated", "DICOM_TRUNCATED", beside(one(), truncate("slice_002.dcm", -84))),
    reject("last_file_ends_in_the_header", "DICOM_DAMAGED", beside(one(), truncate("slice_004.dcm", 0.5))),
    reject(
        "last_file_ends_in_the_file_header", "DICOM_DAMAGED", beside(one(), truncate("slice_004.dcm", 0.2))
    ),
    reject("last_file_is_empty", "DICOM_DAMAGED", beside(one(), truncate("slice_004.dcm", 0.0))),
    reject(
        "last_file_is_empty_and_has_no_suffix",
        "DICOM_DAMAGED",
        beside(one(name="{folder}/IM{k}"), truncate("IM4", 0.0)),
    ),
    reject("last_file_is_zeros", "DICOM_DAMAGED", beside(one(), fill(0))),
    reject(
        "last_file_is_text", "DICOM_DAMAGED", beside(one(), place("slice_004.dcm", b"404 Not Found\n" * 9))
    ),
    reject(
        "last_file_is_a_dangling_link", "DICOM_DAMAGED|FILE_MISSING|FILE_UNREADABLE", beside(one(), dangling)
    ),
    reject("last_file_is_gzipped", "DICOM_DAMAGED", beside(one(), gzip_last)),
    reject(
        "last_file_is_a_hundred_bytes",
        "DICOM_DAMAGED|DICOM_TRUNCATED",
        beside(one(), truncate("slice_004.dcm", 0.1)),
    ),
    reject(
        "compressed_file_truncated",
        "DICOM_TRUNCATED",
        beside(one(store=Store(syntax=JPEGLSLossless)), truncate("slice_004.dcm", -30)),
    ),
    reject(
        "rle_file_truncated",
        "DICOM_TRUNCATED",
        beside(one(store=Store(syntax=RLELossless)), truncate("slice_000.dcm", -30)),
    ),
    reject(
        "deflated_file_truncated",
        "DICOM_TRUNCATED|DICOM_DAMAGED",
        beside(one(store=Store(syntax=DeflatedExplicitVRLittleEndian)), truncate("slice_004.dcm", -40)),
    ),
    reject("pixel_data_shorter_than_the_header_says", "DICOM_TRUNCATED", one(edit=only(3, shorten))),
    reject("pixel_data_twice_as_long", "DICOM_HEADER|DICOM_TRUNCATED", one(edit=only(3, lengthen))),
    reject(
        "pixel_data_missing_in_one",
        "DICOM_TRUNCATED|DICOM_HEADER|DICOM_DAMAGED",
        one(edit=only(4, drop("PixelData"))),
    ),
    reject(
        "pixel_data_missing",
        "DICOM_TRUNCATED|DICOM_HEADER|DICOM_DAMAGED|DICOM_NOT_IMAGE",
        one(edit=drop("PixelData")),
    ),
    reject("absurd_rows_and_columns", "DICOM_TOO_LARGE|DICOM_TRUNCATED", one(edit=ABSURD)),
    reject(
        "absurd_rows_and_columns_compressed",
        "DICOM_TOO_LARGE|DICOM_TRUNCATED|DICOM_DECODE",
        one(edit=ABSURD, store=Store(syntax=RLELossless)),
    ),
    reject(
        "absurd_number_of_frames", "DICOM_TOO_LARGE|DICOM_TRUNCATED", one(edit=put(NumberOfFrames=2**31 - 1))
    ),
    reject(
        "unknown_transfer_syntax", "DICOM_DECODER", beside(one(), claim_encapsulated("1.2.840.113619.5.2"))
    ),
    reject(
        "compressed_by_name_only",
        "DICOM_DAMAGED|DICOM_TRUNCATED|DICOM_DECODE|DICOM_HEADER",
        beside(one(), claim_encapsulated("1.2.840.10008.1.2.5")),
    ),
    reject(
        "other_image_format_beside",
        "INPUT_MIXED",
        beside(one(), place("scan.nii.gz", b"\x1f\x8b" + bytes(30))),
    ),
    reject("nothing_but_text", "NO_CASES", alone(place("notes.txt", b"nothing here\n"))),
]

OBJECTS = [
    reject("structures_alone", "DICOM_NOT_IMAGE", alone(write_structures)),
    reject("segmentation_alone", "DICOM_NOT_IMAGE", alone(write_segmentation)),
    reject("dose_alone", "DICOM_NOT_IMAGE", alone(write_dose)),
    reject("report_alone", "DICOM_NOT_IMAGE", alone(write_report)),
    reject("key_objects_alone", "DICOM_NOT_IMAGE", alone(write_key_objects)),
    reject("presentation_alone", "DICOM_NOT_IMAGE", alone(write_presentation)),
    reject("pdf_alone", "DICOM_NOT_IMAGE", alone(write_pdf)),
    reject("localizer_alone", "DICOM_LOCALIZER", alone(write_localizer(7, planes=3))),
    reject(
        "mosaic",
        "DICOM_MOSAIC",
        one(kind="MR", edit=put(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])),
    ),
    reject("mosaic_known_by_a_private_number", "DICOM_MOSAIC", one(kind="MR", edit=number_of_tiles)),
    reject("rgb", "DICOM_COLOUR", one(edit=colour("RGB", 3), store=Store(bits=8), ramp=Ramp((2, 5, 9), 128))),
    reject(
        "ybr", "DICOM_COLOUR", one(edit=colour("YBR_FULL", 3), store=Store(bits=8), ramp=Ramp((2, 5, 9), 128))
    ),
    reject("palette", "DICOM_COLOUR", one(edit=colour("PALETTE COLOR", 1))),
    reject(
        "ultrasound_loop",
        "DICOM_POSITION|DICOM_ORIENTATION|DICOM_PIXEL_SPACING",
        one(
            replace(AXIAL, at=(0.0,)),
            edit=both(
                put(SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US", NumberOfFrames=3),
                lambda d, k: setattr(d, "PixelData", bytes(d.PixelData) * 3),
                drop("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
            ),
        ),
    ),
    reject("nuclear_tomography", "DICOM_POSITION|DICOM_ORIENTATION", write_nuclear),
    reject(
        "frames_without_positions_of_their_own",
        "DICOM_POSITION|DICOM_HEADER",
        one(
            replace(AXIAL, at=(0.0,)),
            edit=both(put(NumberOfFrames=3), lambda d, k: setattr(d, "PixelData", bytes(d.PixelData) * 3)),
        ),
    ),
]

REJECT: list[Case] = [*FILES, *OBJECTS]
