"""The identifiers of one file, and where else they occur: names in labels and codes, in compressed pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

OF_PATIENT = (
    *("PatientID", "OtherPatientIDs", "PatientAddress", "PatientTelephoneNumbers", "MedicalRecordLocator"),
    *("AccessionNumber", "StudyID", "AdmissionID", "ServiceEpisodeID", "RequestedProcedureID"),
    *("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
    *("PlacerOrderNumberImagingServiceRequestRetired", "FillerOrderNumberImagingServiceRequestRetired"),
    *("PlacerOrderNumberProcedure", "FillerOrderNumberProcedure"),
    *("InsurancePlanIdentification", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "PatientInstitutionResidence"),
    *("ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "PersonAddress"),
    *("PersonTelephoneNumbers", "OrderCallbackPhoneNumber"),
)
OF_DEVICE = ("StationName", "DeviceSerialNumber", "PerformedStationName", "ScheduledStationName")
OWN_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
MIN_ANYWHERE = 6  # shorter ones count only as whole words, or "Ann" would be found in "annulus"
MIN_WORD, MIN_OWN_WORD = 4, 3


class Identifiers:
    """Identifying texts of a data set, gathered before anything is removed from it.

    Args:
        dataset: Every level of it is searched.
        keep_device: Names and serial numbers of devices are none.
    """

    def __init__(self, dataset: Dataset, *, keep_device: bool = False) -> None:
        self._tags = _tags(OF_PATIENT if keep_device else (*OF_PATIENT, *OF_DEVICE))
        self._own_names, (self._birth_date,) = _tags(OWN_NAMES), _tags(["PatientBirthDate"])
        self.texts = {text for text in self._gather(dataset) if _is_telling(text)}
        self._folded = sorted({text.casefold() for text in self.texts}, key=len, reverse=True)
        parts = [
            re.escape(text) if _is_long(text) else rf"(?<!\w){re.escape(text)}(?!\w)" for text in self._folded
        ]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def _gather(self, dataset: Dataset) -> Iterator[str]:
        for tag in sorted(dataset.keys()):
            try:
                vr = "" if tag.is_private else dictionary_VR(tag)
            except KeyError:
                continue
            if vr == "SQ":
                items = dataset[tag].value
                for item in items if isinstance(items, Sequence) else ():
                    yield from self._gather(item)
            elif vr == "PN":
                for name in list_texts(dataset[tag].value):
                    yield from split_name(name, MIN_OWN_WORD if tag in self._own_names else MIN_WORD)
            elif tag == self._birth_date:
                for date in list_texts(dataset[tag].value):
                    yield from write_date(date)
            elif tag in self._tags:
                for text in list_texts(dataset[tag].value):
                    yield text.strip(" \0")

    def occur_in(self, text: str) -> bool:
        """Say whether a text holds an identifier."""
        return bool(self._pattern and self._pattern.search(text.casefold()))

    def occur_in_code(self, text: str) -> bool:
        """Say whether a code string holds a long one; short ones, HEAD for one, may be meant as codes."""
        folded = text.casefold()
        return any(_is_long(word) and word in folded for word in self._folded)

    def occur_in_bytes(self, data: bytes) -> bool:
        """Say whether bytes hold one that cannot be there by chance, as it stands or in capitals."""
        words = [word for word in self.texts if _is_long(word) and not word.isdigit()]
        forms = {form.encode() for word in words for form in (word, word.upper())}
        return any(form in data for form in forms)


def _tags(keywords: tuple[str, ...] | list[str]) -> list[int]:
    return [tag for word in keywords if (tag := tag_for_keyword(word)) is not None]


def _is_telling(text: str) -> bool:
    if not text.isascii():
        return len(text) >= 2
    return len(text) >= MIN_WORD or (len(text) >= MIN_OWN_WORD and text.isalpha())


def _is_long(text: str) -> bool:
    return len(text) >= MIN_ANYWHERE or not text.isascii()


def list_texts(value: object) -> list[str]:
    """Return the values of an element as texts."""
    if value is None:
        return []
    return [str(part) for part in value] if isinstance(value, (MultiValue, list)) else [str(value)]


def split_name(name: str, min_word: int) -> Iterator[str]:
    """Yield a person's name and its parts: "Doe^John=山田" gives Doe^John, Doe, John and 山田."""
    for group in name.split("="):
        yield group.strip(" ^\0")
        yield from (
            word
            for word in re.split(r"[\s^,.\0]+", group)
            if len(word) >= (min_word if word.isascii() else 2)
        )


def write_date(date: str) -> Iterator[str]:
    """Yield the ways to write the date YYYYMMDD."""
    digits = re.sub(r"\D", "", date)
    if len(digits) == 8:
        year, month, day = digits[:4], digits[4:6], digits[6:]
        yield digits
        for mark in "-./ ":
            yield from (
                mark.join(parts) for parts in ((year, month, day), (day, month, year), (month, day, year))
            )
