"""De-identifies test files under a key of their own."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset, config, dcmread

from medseg.io.dicom.deidentify.files import deidentify_file
from medseg.io.dicom.deidentify.profile import Policy
from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms
from tests.dicom_files import Grid, Plan, make_slice, save

KEY = b"a key of some site, 32 bytes long"
NAMES = Pseudonyms(KEY)
PLAIN, SHIFT = Policy(), Policy("shift")


def clean(source: Path, target: Path, policy: Policy = PLAIN, patient: str = "P-1") -> Dataset:
    deidentify_file(source, target, policy, NAMES, patient)
    return dcmread(target)


def clean_slice(tmp_path: Path, policy: Policy = PLAIN, **values: object) -> Dataset:
    """Return a CT slice with these values, de-identified."""
    source = tmp_path / "source.dcm"
    dataset = make_slice(Grid(), 0, Plan())
    with config.disable_value_validation():
        for keyword, value in values.items():
            dataset.pop(keyword, None)
            setattr(dataset, keyword, value)
    save(source, dataset)
    return clean(source, tmp_path / "target.dcm", policy)
