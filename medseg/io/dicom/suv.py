"""Standardised uptake values of PET: body weight, as the QIBA FDG-PET profile computes them.

SUV = activity concentration [Bq/ml] * weight [g] / dose [Bq], the dose decayed to the time that the scanner
corrected to (DICOM PS3.3 C.8.9.1.1.11; QIBA vendor-neutral pseudo-code, 2013).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from medseg.core.errors import DataError
from medseg.io.dicom.scan import Instance, Warnings

MAX_UPTAKE = timedelta(hours=24)


def suv_factor(first: Instance) -> tuple[float, Warnings]:
    """Return what Bq/ml is multiplied by, and what to tell.

    Raises:
        DataError: DICOM_SUV: not PET, other units, or a value that is missing.
    """
    if first.modality != "PT":
        raise _refuse(f"SUV are computed of PET, not of {_code(first.modality)}")
    units = first.facts.get("units", "").upper()
    if units == "GML":
        return 1.0, (("DICOM_SUV_ALREADY", "the values are SUV already (units GML); nothing was done"),)
    if units != "BQML":
        raise _refuse(f"SUV are computed of units BQML, not of {_code(units) or 'unknown ones'}")
    weight_g = 1000 * _number(first.facts, "weight_kg", "PatientWeight")
    dose = _number(first.facts, "dose_bq", "RadionuclideTotalDose")
    return weight_g / (dose * _decay(first.facts)), (
        ("DICOM_SUV_APPLIED", "values are SUV by body weight, computed from Bq/ml"),
    )


def _decay(facts: Mapping[str, str]) -> float:
    """Return the share of the dose that is left at the time the image is corrected to."""
    correction = facts.get("decay_correction", "").upper()
    if correction == "ADMIN":
        return 1.0
    if correction != "START":
        raise _refuse(f"the image is decay-corrected to {_code(correction) or 'an unknown time'}")
    half_life_s = _number(facts, "half_life_s", "RadionuclideHalfLife")
    scan = _moment(facts.get("series_date", "") + facts.get("series_time", ""), "SeriesDate and SeriesTime")
    acquired = facts.get("acquisition_date", "") + facts.get("acquisition_time", "")
    if acquired and _moment(acquired, "AcquisitionTime") < scan:
        scan = _moment(acquired, "AcquisitionTime")  # a series made later carries the time of its making
    if facts.get("injection"):
        injected = _moment(facts["injection"], "RadiopharmaceuticalStartDateTime")
    else:
        injected = _moment(f"{scan:%Y%m%d}" + facts.get("injection_time", ""), "RadiopharmaceuticalStartTime")
        if injected > scan:
            injected -= timedelta(days=1)
    uptake = scan - injected
    if not timedelta() <= uptake <= MAX_UPTAKE:
        raise _refuse(f"{uptake.total_seconds() / 3600:.1f} hours lie between injection and scan")
    return math.pow(2.0, -uptake.total_seconds() / half_life_s)


def _number(facts: Mapping[str, str], name: str, keyword: str) -> float:
    try:
        value = float(facts.get(name, ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise _refuse(f"{keyword} is missing or not positive")
    return value


def _moment(text: str, keyword: str) -> datetime:
    digits = re.match(r"(\d{14})", text)
    try:
        return datetime.strptime(digits.group(1) if digits else "", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise _refuse(f"{keyword} is missing or no time") from None


def _code(text: str) -> str:
    return text if re.fullmatch(r"[A-Z0-9]{1,16}", text) else ""


def _refuse(why: str) -> DataError:
    return DataError(
        f"SUV cannot be computed: {why}", hint="convert without --suv to get stored units", code="DICOM_SUV"
    )
