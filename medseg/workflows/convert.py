"""convert: any scan -> OUT/<id>.nii.gz and its sidecar; a refused case leaves nothing, the others go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import DataError, FormatError, ResourceError, is_out_of_memory
from medseg.core.files import make_folder, sweep
from medseg.core.volume import Volume
from medseg.data.cases import Case, pseudonymize, read_key
from medseg.data.checks import hash_files, require_unchanged
from medseg.data.loading import tell_notes
from medseg.io import mask_suffix, read_volume, write_volume
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scans import Request, describe_scan, find_scans, refuse_inputs_in
from medseg.workflows.sidecar import clear_refused, find_versions, hash_outputs, is_done, write_sidecar

if TYPE_CHECKING:
    from medseg.io.dicom import Scan

SUFFIXES = (".nii.gz", ".json")


def convert(
    paths: Sequence[Path],
    out: Path,
    request: Request,
    *,
    progress: Progress,
    report: Report,
    key_file: Path,
    is_pseudonymous: bool = False,
) -> None:
    """Write OUT/<id>.nii.gz and OUT/<id>.json for every scan, and OUT/report.json.

    Args:
        paths: DICOM folders or files, images in other formats, or folders of them.
        out: OUT.
        request: Which volumes, and what may be repaired.
        progress: A step a case.
        report: Gets a result a case.
        key_file: The site's secret for the ids of DICOM scans, made on first use.
        is_pseudonymous: Whether ids of files are pseudonyms too.

    Raises:
        ConfigError: Nothing there, an unknown series, options of DICOM for none, or OUT lies among the scans.
        DataError: No scan was found, or INPUT_MIXED.
    """
    refuse_inputs_in(out, paths)
    cases = find_scans(paths, request, partial(read_key, key_file))
    if is_pseudonymous:
        cases = pseudonymize(cases, key_file)
    make_folder(out)
    sweep(out)
    with progress.track("convert", len(cases)) as advance:
        for case in cases:
            report.add(convert_case(case, out, request))
            advance(case.id)
    report.write(out / "report.json")


def convert_case(case: Case, out: Path, request: Request) -> CaseResult:
    """Convert one case, or say why not; a case that is not done leaves no file of its id."""
    started = time.perf_counter()
    try:
        result = _convert(case, out, request)
    except DataError as error:
        result = CaseResult.of_error(case.id, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use a machine with more memory"
        shortage = ResourceError("out of memory", hint=hint, code="OUT_OF_MEMORY")
        result = CaseResult.of_error(case.id, shortage, "failed")
    if result.status in {"rejected", "failed"}:
        clear_refused(out, case, result.code, SUFFIXES)
    result.seconds = time.perf_counter() - started
    return result


def output_names(case_id: str) -> list[str]:
    """Return what converting a case writes; the sidecar comes last."""
    return [f"{case_id}{suffix}" for suffix in SUFFIXES]


def _convert(case: Case, out: Path, request: Request) -> CaseResult:
    if case.error is not None:
        raise case.error
    (image,) = case.images
    outputs = output_names(case.id)
    identity: dict[str, Any] = {
        "input_sha256": hash_files(case)[0],
        "model_sha256": None,
        "settings": {} if isinstance(image, Path) else {**request.settings, "volume": image.volume},
        "versions": find_versions("numpy", *([] if isinstance(image, Path) else ["pydicom"])),
    }
    ignored = tell_ignored(image, request)
    if is_done(out, case.id, outputs, identity):
        return CaseResult(case.id, "skipped", warnings=ignored, outputs=outputs)
    notes: set[str] = set()
    volume = _read(image, notes)
    require_unchanged(case, identity["input_sha256"])
    warnings = [*case.warnings, *tell_notes(notes), *ignored]
    # A sidecar vouches for what lies beside it: the old one goes first, or a kill in between made it lie.
    (out / outputs[1]).unlink(missing_ok=True)
    write_volume(out / outputs[0], volume)
    made, grid = hash_outputs(out, outputs), volume.geometry
    about = describe_scan(image, grid.shape[2])
    write_sidecar(out / outputs[1], identity, grid, outputs=made, labels={}, warnings=warnings, scan=about)
    return CaseResult(case.id, "done", warnings=warnings, outputs=outputs)


def tell_ignored(image: Path | Scan, request: Request) -> list[tuple[str, str]]:
    """Return the warning that options mean nothing to a file beside the DICOM they were given for."""
    if not isinstance(image, Path) or not request.dicom_options:
        return []
    return [("OPTION_NEEDS_DICOM", f"{', '.join(request.dicom_options)}: ignored, as this is no DICOM")]


def _read(image: Path | Scan, notes: set[str]) -> Volume:
    if mask_suffix(image) == ".png":
        raise FormatError(
            "a picture says nowhere how large its pixels are and how they lie in a patient",
            hint="use it as it is, or convert the scan that it was made from",
            code="PICTURE_NO_GRID",
        )
    return read_volume(image, notes)
