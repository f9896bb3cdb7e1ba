"""The elements that medseg reads, and values of any quality as plain numbers and texts."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

PIXEL_ELEMENTS: dict[int, Literal["integer", "float", "double"]] = {
    0x7FE00010: "integer",
    0x7FE00008: "float",
    0x7FE00009: "double",
}

PRIVATE_TRAITS = {
    "b_value_ge": 0x00431039,
    "b_value_siemens": 0x0019100C,
    "b_value_philips": 0x20011003,
    "direction_x_ge": 0x001910BB,
    "direction_y_ge": 0x001910BC,
    "direction_z_ge": 0x001910BD,
}
"""Where scanners keep what tells diffusion volumes apart, from their conformance statements."""

MOSAIC_CREATOR, MOSAIC_TILES = 0x00190010, 0x0019100A  # NumberOfImagesInMosaic of Siemens

TRAITS = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "StackID",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "ImageType",
    "ComplexImageComponent",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "FrameReferenceTime",
    "ConvolutionKernel",
    "KVP",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ContentTime",
)
"""What tells volumes of one series apart, the most telling first."""

KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientName", "Modality", "ImageType", "InstanceNumber", "Manufacturer"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *(
        "Units",
        "Laterality",
        "ImageLaterality",
        "PatientPosition",
        "PatientOrientation",
        "ImagesInAcquisition",
    ),
    *("LossyImageCompression", "PatientWeight", "SeriesDate", "SeriesTime", "AcquisitionDate"),
    *("AcquisitionTime", "DecayCorrection", "CorrectedImage", "RadiopharmaceuticalInformationSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"),
    *("NumberOfSlices", *TRAITS),
)
TAGS = sorted(
    {
        0x00080005,  # SpecificCharacterSet, needed to decode the others
        *(tag for keyword in KEYWORDS if (tag := tag_for_keyword(keyword)) is not None),
        *PRIVATE_TRAITS.values(),
        MOSAIC_CREATOR,
        MOSAIC_TILES,
    }
)

_MODALITIES = (
    "AR AU BI BMD CR CT DG DOC DX ECG EPS ES FID GM HC HD IO IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM "
    "OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN "
    "RTRECORD RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XC "
)
MODALITIES = frozenset(_MODALITIES.split())
"""PS3.3 C.7.3.1.1.1."""


def name_modality(text: str) -> str | None:
    """Return a defined modality, and nothing where a header holds other text in its place."""
    return text if text in MODALITIES else None


def text(header: Dataset, keyword: str | int) -> str:
    """Return a value as text, several joined by a backslash; "" where it is absent."""
    element = header.get(_tag(keyword))
    value = None if element is None else element.value
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        plain = bytes(value).strip(b" \0")  # of implicit private elements, whose type is not known
        return plain.decode() if plain.isascii() and plain.decode().isprintable() else bytes(value).hex()
    if isinstance(value, (list, tuple, MultiValue)):
        return "\\".join(str(part).strip() for part in value)
    return str(value).strip(" \0")


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a code string, upper case."""
    return tuple(part.strip().upper() for part in text(header, keyword).split("\\") if part.strip())


def numbers(header: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return the values as floats, NaN for what is no number; None where the element is absent or empty."""
    tag = _tag(keyword)
    if tag not in header:
        return None
    try:
        value: Any = header[tag].value
    except (ValueError, TypeError, ArithmeticError, LookupError):
        return (math.nan,)
    if value is None or value == "":
        return None
    parts = [value] if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else list(value)
    return tuple(_float(part) for part in parts) or None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def number(header: Dataset, keyword: str) -> float | None:
    """Return a single value, NaN where it is no number; None where it is absent."""
    found = numbers(header, keyword)
    return found[0] if found else None


def integer(header: Dataset, keyword: str, default: int) -> int:
    """Return a whole number; `default` where it is absent, -1 where it is no number."""
    found = number(header, keyword)
    if found is None:
        return default
    return int(found) if math.isfinite(found) else -1


def _tag(keyword: str | int) -> int:
    tag = tag_for_keyword(keyword) if isinstance(keyword, str) else keyword
    assert tag is not None, keyword
    return tag
