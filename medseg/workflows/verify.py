"""verify: is what lies here what was written: model folders, exports, and masks against their sidecars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError
from medseg.core.files import read_json, sha256_of_file
from medseg.io import is_image
from medseg.workflows.report import CaseResult, Report

SUMS = "SHA256SUMS"
OTHER = ("CHECKSUM_DIFFERS", "the content is not what was written")
ABSENT = ("FILE_MISSING", "the file is gone")
UNKNOWN = ("CHECKSUM_MISSING", "nothing here vouches for the file")
HINT = "copy or make it again"


def verify(path: Path, report: Report) -> None:
    """Add a result per file.

    Args:
        path: A RUN or model folder, an export, a folder of masks, a mask, or a sidecar.
        report: Its bad cases are files that are damaged, gone, or vouched for by nothing.

    Raises:
        DataError: FILE_MISSING; CHECKSUM_MISSING where there is no checksum at all.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", hint="check the path", code="FILE_MISSING")
    if path.is_file():
        found = check_masks(path.parent, path.name)
    else:
        folder = next((folder for folder in (path, path / "model") if (folder / SUMS).is_file()), None)
        found = check_masks(path) if folder is None else check_sums(folder)
    report.cases += sorted(found, key=lambda result: result.id)
    if not report.cases:
        raise DataError(
            "nothing here has a checksum", hint="give a model, an export, or masks", code="CHECKSUM_MISSING"
        )


def check_sums(folder: Path) -> Iterator[CaseResult]:
    """Yield a result per file that SHA256SUMS lists, or that lies beside it unlisted."""
    lines = (folder / SUMS).read_bytes().decode(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    yield from _compare(folder, sums)
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        is_own = name == SUMS or path.name.startswith(".") or path.parent.name == "__pycache__"
        if path.is_file() and name not in sums and not is_own:
            yield _result(name, UNKNOWN)


def check_masks(folder: Path, only: str = "") -> Iterator[CaseResult]:
    """Yield a result per output that a sidecar lists, and per image that none does.

    Args:
        folder: Of masks and sidecars.
        only: Name of one file; a sidecar stands for all that it lists.
    """
    known: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        if only and not only.startswith(path.stem):
            continue
        try:
            tree = read_json(path)
        except DataError as error:
            yield CaseResult(path.name, "failed", error.code, error.message, HINT)
            continue
        listed = tree.get("outputs_sha256") if isinstance(tree, dict) else None
        if isinstance(listed, dict):
            known |= {path.name, *listed}
            wanted = {name: digest for name, digest in listed.items() if only in {"", name, path.name}}
            yield from _compare(folder, wanted)
    for path in [folder / only] if only else sorted(folder.iterdir()):
        if path.name not in known and (only or is_image(path)):
            yield _result(path.name, UNKNOWN)


def _compare(folder: Path, sums: Mapping[str, Any]) -> Iterator[CaseResult]:
    for name, digest in sums.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute() or not path.is_file():
            yield _result(name, ABSENT)
        else:
            yield CaseResult(name, "done") if sha256_of_file(path) == digest else _result(name, OTHER)


def _result(name: str, fault: tuple[str, str]) -> CaseResult:
    return CaseResult(name, "failed", *fault, HINT)
