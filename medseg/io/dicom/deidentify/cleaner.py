"""Carry out the de-identification profile on a data set, element by element, at every depth."""

from __future__ import annotations

import re
from datetime import date, timedelta

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medseg.core.errors import FormatError
from medseg.io.dicom.deidentify.identifiers import Identifiers, list_texts
from medseg.io.dicom.deidentify.profile import Action, Policy, dummy, find_action
from medseg.io.dicom.deidentify.pseudonyms import Pseudonyms

MAX_DEPTH = 32  # no real object comes near
NUMBERS = re.compile(rb"[0-9+\-.eE \\\0]*")
VALID_UID = re.compile(r"[0-9.]{1,64}")
DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})(\d{0,6}(?:\.\d{1,6})?(?:[+-]\d{4})?)")
TIME = re.compile(r"[\d:]{2,8}(\.\d{1,6})?|[+-]\d{4}")  # TM, or the time zone


class Cleaner:
    """Applies the profile to a data set and to the items of its sequences.

    Args:
        policy: The user's choice.
        names: Of this site.
        patient: What tells the patient from others.
        identifiers: What may not stay in any text.
    """

    def __init__(self, policy: Policy, names: Pseudonyms, patient: str, identifiers: Identifiers) -> None:
        self._policy, self._names, self._identifiers = policy, names, identifiers
        self._pseudonym = names.name_patient(patient)
        self._shift = timedelta(days=names.find_shift_days(patient))
        self.replaced = 0

    def clean(self, dataset: Dataset, depth: int = 0) -> None:
        """Clean in place; `replaced` counts the texts that held an identifier.

        Raises:
            FormatError: DICOM_HEADER: nested so deep that writing would take gigabytes.
        """
        if depth > MAX_DEPTH:
            raise FormatError(
                f"sequences are nested more than {MAX_DEPTH} deep",
                hint="export it again",
                code="DICOM_HEADER",
            )
        for tag in sorted(dataset.keys()):
            stored = dataset.get_item(tag)
            action, vr = find_action(tag, stored.VR, self._policy)
            if action == "remove" or (action == "number" and not is_number(stored)):
                del dataset[tag]
            elif action == "items":
                for item in dataset[tag].value or []:
                    self.clean(item, depth + 1)
            elif action == "empty":
                dataset[tag] = DataElement(tag, vr, [] if vr == "SQ" else None)
            elif action == "dummy":
                dataset[tag] = DataElement(tag, vr, dummy(vr))
            elif action not in {"keep", "number"}:
                self._replace(dataset, tag, stored, action, vr)

    def _replace(
        self, dataset: Dataset, tag: BaseTag, stored: DataElement | RawDataElement, action: Action, vr: str
    ) -> None:
        """Replace values that may not stay; an element whose values all may keeps its bytes."""
        old = list_texts(dataset[tag].value)
        new = [self._make_value(text, action, vr) if text.strip(" \0") else text for text in old]
        if new == old:
            dataset[tag] = stored
        else:
            dataset[tag] = DataElement(tag, vr, new[0] if len(new) == 1 else new)

    def _make_value(self, text: str, action: Action, vr: str) -> str:
        text_ = text.strip(" \0")
        if action == "patient":
            return self._pseudonym
        if action == "label":
            return self._names.name_label(text_)
        if action == "uid":
            return text if UID(text_).type else self._names.map_uid(text_)
        if action == "keep_uid":
            return text if VALID_UID.fullmatch(text_) else self._names.map_uid(text_)
        if action == "date":
            return text if is_time(vr, text_) else shift_date(text_, self._shift) or str(dummy(vr))
        is_found = self._identifiers.occur_in_code if action == "code" else self._identifiers.occur_in
        if not is_found(text):
            return text
        self.replaced += 1
        return str(dummy(vr))


def is_number(element: DataElement | RawDataElement) -> bool:
    """Say whether a DS or IS holds numbers and nothing else."""
    value = element.value
    data = value if isinstance(value, bytes) else "\\".join(list_texts(value)).encode()
    return NUMBERS.fullmatch(data) is not None


def is_time(vr: str, text: str) -> bool:
    """Say whether a value is a time of day, which a shift by whole days leaves as it is."""
    return vr in {"TM", "SH"} and TIME.fullmatch(text) is not None


def shift_date(text: str, shift: timedelta) -> str | None:
    """Return a DA or DT moved back; None where it is no full date.

    Args:
        text: YYYYMMDD, YYYY.MM.DD (ACR-NEMA) or YYYYMMDDHHMMSS.FFFFFF&ZZXX.
        shift: Whole days.
    """
    match = DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, rest = match.groups()
    try:
        moved = date(int(year), int(month), int(day)) - shift
    except (ValueError, OverflowError):
        return None
    return moved.isoformat().replace("-", "") + rest
