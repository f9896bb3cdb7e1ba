"""What a cohort is made of, and how its files stay inside its folder."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.errors import ConfigError, DataError
from medseg.core.files import make_folder

if TYPE_CHECKING:
    from medseg.io.dicom.labels.label import DicomLabel
    from medseg.io.dicom.scan import Scan

Key = Callable[[], bytes]
"""Gives the secret of this site that pseudonyms are made with; called only where one is needed."""

SAFE_ID = re.compile(r"[^A-Za-z0-9._+-]")
RESERVED = re.compile(r"report(_\d+_of_\d+)?")  # report.json stands beside the cases' own files
IN_ORDER = "(in the order of the list, or of the file names)"
MAPS = ("_prob", "_entropy", "_disagreement")  # <id>_prob.nii.gz is of <id>; `infer` writes them


@dataclass(frozen=True)
class Case:
    """One scan to segment or to learn from.

    Args:
        id: Names every output of this case; unique in its cohort, safe as a file name.
        images: One file or DICOM scan per channel, or one file that holds all channels.
        label: The label map, if there is one.
        group: The patient; cases of one group never end up on two sides of a split.
        error: Why it cannot be read, where that is known already; reading raises it.
        is_pseudonymous: Id and group are pseudonyms already.
    """

    id: str
    images: tuple[Path | Scan, ...]
    label: Path | DicomLabel | None = None
    group: str = ""
    error: DataError | None = None
    is_pseudonymous: bool = False

    @property
    def patient(self) -> str:
        """The group, or the case itself where none is known."""
        return self.group or self.id

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """(code, message) of what is odd about its DICOM scans."""
        scans = [image for image in self.images if not isinstance(image, Path)]
        return tuple(dict.fromkeys(warning for scan in scans for warning in scan.warnings))


def make_id(text: str) -> str:
    """Return `text` as a name that is safe in file systems, never hidden, and no formula in a table.

    Tables hold it as it is: `write_csv` would put a `'` before a leading `+` or `-`.
    """
    name = SAFE_ID.sub("_", text).lstrip(".-+") or "case"
    return f"{name}_" if RESERVED.fullmatch(name) or name.endswith(MAPS) else name


def require_path(path: Path) -> None:
    """Refuse what is neither a file nor a folder.

    Raises:
        ConfigError: INPUT_MISSING.
    """
    if not (path.is_file() or path.is_dir()):  # a pipe or device exists too
        raise ConfigError("there is no such file or folder", hint="check the path", code="INPUT_MISSING")


def confine(root: Path, relative: str, what: str = "the file list") -> Path:
    """Return `root / relative`, refusing what would leave `root`.

    Args:
        root: Folder of the list.
        relative: What the list names.
        what: The part of the list that names it; the path itself may hold a patient's name.

    Raises:
        DataError: An absolute path, or one that climbs out with `..`.
    """
    inside = Path(os.path.normpath(relative))
    if inside.is_absolute() or inside.parts[:1] == ("..",):
        raise DataError(
            f"{what} names a path outside the folder of the list",
            hint="list paths relative to, and below, the folder of the list",
            code="PATH_OUTSIDE_DATA",
        )
    return root / inside


def distinct_channels(files: list[Path]) -> tuple[Path, ...]:
    """Return one file per channel, or the single file that holds all of them.

    Raises:
        DataError: One file stands for some of the channels only: which, cannot be told.
    """
    if len(set(files)) not in (1, len(files)):
        raise DataError(
            "one file matches several channels",
            hint="make the patterns or columns of the channels name different files",
            code="CHANNEL_AMBIGUOUS",
        )
    return tuple(dict.fromkeys(files))


def assign_groups(cases: Iterable[Case], pattern: str) -> list[Case]:
    """Name each case's patient by the first group of a regular expression in its id.

    Raises:
        ConfigError: An id does not match.
    """
    if not pattern:
        return list(cases)
    found = [(case, re.search(pattern, case.id)) for case in cases]
    missed = [place for place, (case, match) in enumerate(found, 1) if not match and not case.group]
    if missed:
        raise ConfigError(
            f"data.group_pattern does not match {len(missed)} of {len(found)} ids, such as that of case "
            f"{missed[0]} {IN_ORDER}",
            hint="correct it: a case without a patient may end up on the other side of a split",
            code="GROUP_UNMATCHED",
        )
    return [
        replace(case, group=match.group(1)) if match and not case.group else case for case, match in found
    ]


def no_key() -> bytes:
    """Refuse to make pseudonyms: the default of functions that most often need none.

    Raises:
        ConfigError: KEY_MISSING.
    """
    raise ConfigError(
        "ids of DICOM scans are pseudonyms, and no key to make them with was given",
        hint="pass `key`, for example partial(read_key, path)",
        code="KEY_MISSING",
    )


def read_key(path: Path) -> bytes:
    """Return the key in a file, made on first use; the same one for processes that start at once."""
    if not path.exists():
        fresh = make_folder(path.parent) / f".{path.name}-{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(secrets.token_bytes(32))
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(fresh)
        finally:
            fresh.unlink(missing_ok=True)
    return path.read_bytes()


def peek_key(path: Path) -> bytes:
    """Return the key in a file, or one for this once where none was made yet: a dry run writes nothing."""
    return path.read_bytes() if path.exists() else secrets.token_bytes(32)


def pseudonym(key: bytes, text: str) -> str:
    """Return 12 hex digits of an HMAC-SHA-256: the same for one text at one site, of no use elsewhere."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:12]


def pseudonymize(cases: Iterable[Case], key_file: Path) -> list[Case]:
    """Replace ids and groups by `case-` + a pseudonym; those of DICOM scans are pseudonyms already."""
    key = read_key(key_file)
    return [
        case
        if case.is_pseudonymous
        else replace(
            case,
            id=f"case-{pseudonym(key, case.id)}",
            group=f"case-{pseudonym(key, case.patient)}",
            is_pseudonymous=True,
        )
        for case in cases
    ]


def require_unique(cases: list[Case]) -> list[Case]:
    """Return the cases sorted by id.

    Raises:
        DataError: No case at all, or two with one id.
    """
    if not cases:
        raise DataError(
            "no case was found", hint="see docs/data.md for the layouts that are recognised", code="NO_CASES"
        )
    refuse_twins([case.id for case in cases], "cases")
    return sorted(cases, key=lambda case: case.id)


def refuse_twins(ids: Sequence[str], what: str) -> None:
    """Refuse two that have one id. They are told by their place: an id may be a patient's name.

    Args:
        ids: In the order of the list or of the file names.
        what: What has them.

    Raises:
        DataError: DUPLICATE_ID.
    """
    place_of: dict[str, int] = {}
    for place, name in enumerate(ids, 1):
        if (first := place_of.setdefault(name, place)) != place:
            raise DataError(
                f"{what} {first} and {place} of {len(ids)} {IN_ORDER} have one id",
                hint="rename one; of a name, an id keeps letters, digits and . _ + - only",
                code="DUPLICATE_ID",
            )
