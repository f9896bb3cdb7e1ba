"""What stands for a patient, a UID, a name: HMACs under the key of the site.

The same on every run and in every process, so that what refers to each other still does; without the key
nobody can tell what a pseudonym stands for, nor whether it stands for a name he knows.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from pathlib import Path

from medseg.io.dicom.index import pseudonym
from medseg.io.dicom.scan import Instance

MAX_SHIFT_DAYS = 3650
"""Ten years: the year of an examination tells little, and scanner and sequence still fit."""


class Pseudonyms:
    """Pseudonyms of one site.

    Args:
        key: The site's secret.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._uids: dict[str, str] = {}

    def digest(self, purpose: str, text: str | bytes) -> str:
        """Return 64 hex digits; the same text gives different ones for different purposes."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, purpose.encode() + b"\0" + data, hashlib.sha256).hexdigest()

    def name_patient(self, patient: str) -> str:
        """Return what stands in PatientID and PatientName."""
        return f"PSN-{self.digest('patient', patient)[:12]}"

    def name_label(self, text: str) -> str:
        """Return what stands for a region's name; equal names give equal ones."""
        return f"ROI-{self.digest('label', text)[:8]}"

    def map_uid(self, uid: str) -> str:
        """Return a UID made of a UUID (PS3.5 B.2)."""
        if uid not in self._uids:
            digest = bytes.fromhex(self.digest("uid", uid))
            self._uids[uid] = f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
        return self._uids[uid]

    def find_shift_days(self, patient: str) -> int:
        """Return how far the dates of a patient go back, 1 to 3650 days."""
        return 1 + int(self.digest("dates", patient), 16) % MAX_SHIFT_DAYS

    def name_series(self, instance: Instance) -> str:
        """Return the id that the series has in every command of this site."""
        return pseudonym(f"{instance.study} {instance.series}", self._key)

    def place(self, instance: Instance) -> Path:
        """Return where a file goes: patient/study/series/instance, all pseudonyms."""
        return Path(
            self.name_patient(find_patient(instance)),
            f"study-{self.digest('study', instance.study)[:12]}",
            self.name_series(instance),
            f"{self.digest('file', instance.sop_instance)[:16]}.dcm",
        )


def find_patient(instance: Instance) -> str:
    """Return what tells a patient from others: PatientID, else the name, else the study."""
    return instance.patient or instance.study
