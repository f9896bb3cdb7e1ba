"""Standardised uptake values: SUV = Bq/ml * g / decayed dose."""

from pathlib import Path

import pytest

from medseg.core.errors import DataError
from medseg.io.dicom.scan import Instance
from medseg.io.dicom.suv import suv_factor

FACTS = {
    "units": "BQML",
    "weight_kg": "80",
    "dose_bq": "400000000",
    "half_life_s": "6600",
    "decay_correction": "START",
    "injection_time": "100000",
    "series_date": "20200102",
    "series_time": "115000.25",
}


def pet(modality: str = "PT", **facts: str) -> Instance:
    return Instance(Path("x"), "p", "1", "2", "3", "4", modality, (), None, {**FACTS, **facts})


def test_dose_has_decayed_to_the_start_of_the_series():
    # 110 minutes are one half-life: 200 MBq are left; 80,000 g / 2e8 Bq.
    factor, warnings = suv_factor(pet())
    assert factor == pytest.approx(4e-4)
    assert [code for code, _ in warnings] == ["DICOM_SUV_APPLIED"]


def test_dose_at_injection_where_the_image_is_corrected_to_it():
    assert suv_factor(pet(decay_correction="ADMIN"))[0] == pytest.approx(2e-4)


def test_full_injection_time_wins():
    facts = {"injection": "20200102100000", "injection_time": "030000"}
    assert suv_factor(pet(**facts))[0] == pytest.approx(4e-4)


def test_injection_before_midnight():
    facts = {"series_time": "004000", "injection_time": "225000"}
    assert suv_factor(pet(**facts))[0] == pytest.approx(4e-4)


def test_series_made_later_counts_from_the_acquisition():
    facts = {"series_time": "180000", "acquisition_date": "20200102", "acquisition_time": "115000"}
    assert suv_factor(pet(**facts))[0] == pytest.approx(4e-4)


def test_gml_is_suv_already():
    factor, warnings = suv_factor(pet(units="GML"))
    assert (factor, [code for code, _ in warnings]) == (1.0, ["DICOM_SUV_ALREADY"])


@pytest.mark.parametrize(
    "facts",
    [
        {"modality": "CT"},
        {"units": "CNTS"},
        {"weight_kg": ""},
        {"weight_kg": "0"},
        {"weight_kg": "heavy"},
        {"dose_bq": "-1"},
        {"half_life_s": ""},
        {"decay_correction": "NONE"},
        {"injection_time": ""},
        {"series_date": "", "series_time": ""},
        {"injection": "20191230100000"},
    ],
    ids=lambda facts: " ".join(f"{k}={v or 'missing'}" for k, v in facts.items()),
)
def test_refused_where_something_is_missing(facts):
    with pytest.raises(DataError) as caught:
        suv_factor(pet(**facts))
    assert caught.value.code == "DICOM_SUV"
