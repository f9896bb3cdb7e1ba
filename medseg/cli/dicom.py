"""inspect, convert, to-dicom: what a folder holds, scans to NIfTI, masks back to DICOM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import make_progress, session, summarise
from medseg.core.errors import ConfigError

if TYPE_CHECKING:
    from medseg.workflows.inspect import Entry, Findings
    from medseg.workflows.progress import Progress
    from medseg.workflows.report import Report
    from medseg.workflows.scans import Request

SeriesChoice = Annotated[
    str | None,
    typer.Option(
        "--series", metavar="N|ID|UID", help="Series, as `medseg inspect` lists it.", show_default=False
    ),
]
VolumeChoice = Annotated[
    int | None, typer.Option("--volume", min=1, help="Volume of a series, from 1.", show_default=False)
]
AllowTilt = Annotated[
    bool, typer.Option("--allow-tilt", help="Resample a tilted gantry's slices to an orthogonal grid.")
]
AllowResampleZ = Annotated[
    bool, typer.Option("--allow-resample-z", help="Interpolate uneven slice distances to even ones.")
]
SliceThickness = Annotated[
    float | None,
    typer.Option(
        "--slice-thickness", help="Thickness in mm of a single slice that lacks it.", show_default=False
    ),
]
SHOWN = 20  # names of damaged files on a terminal


def inspect(
    path: Annotated[Path, typer.Argument(help="A folder or a file.", show_default=False)],
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """List what is there: a line a series or image, whether it can be read, and if not, why.

    Example: `medseg inspect study/`
    """
    with session("inspect", subject=str(path), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.inspect import inspect as work

        found = work(path, report=report, key_file=find_key())
        if not (json or quiet):
            for line in lay_out(found):
                print(line)


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="DICOM folders, images, or folders of them.", show_default=False
        ),
    ],
    out: o.Out,
    series: Annotated[
        str | None,
        typer.Option(
            "--series",
            metavar="N|ID|UID|all",
            help="Series, as `medseg inspect` lists it; `all` takes every volume.",
            show_default=False,
        ),
    ] = None,
    volume: VolumeChoice = None,
    allow_tilt: AllowTilt = False,
    allow_resample_z: AllowResampleZ = False,
    slice_thickness: SliceThickness = None,
    suv: Annotated[bool, typer.Option("--suv", help="PET in Bq/ml to SUV by body weight.")] = False,
    json: o.Json = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
    pseudonymize: o.Pseudonymize = False,
) -> None:
    """Write any scan as NIfTI with a sidecar; what is doubtful is refused, and what is done is skipped.

    Example: `medseg convert study/ -o out/nifti --series 2`
    """
    with session("convert", subject=str(paths[0]), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.workflows.convert import convert as work
        from medseg.workflows.scans import Request

        check_thickness(slice_thickness)
        request = Request(series, volume, allow_tilt, allow_resample_z, slice_thickness, suv)
        progress = make_progress(quiet=quiet)
        if dry_run:
            announce(paths, out, request, report, progress)
            return
        work(
            paths,
            out,
            request,
            progress=progress,
            report=report,
            key_file=find_key(),
            is_pseudonymous=pseudonymize,
        )
        progress.say(summarise(report))


def to_dicom(
    mask: Annotated[Path, typer.Argument(help="A label map, such as OUT/ID.nii.gz.", show_default=False)],
    source: Annotated[
        Path, typer.Option("--source", help="DICOM folder it was drawn on.", show_default=False)
    ],
    out: o.Out,
    format_: Annotated[
        str, typer.Option("--format", help="dicom-seg, rtstruct or both: dicom-seg,rtstruct.")
    ] = "dicom-seg",
    series: SeriesChoice = None,
    volume: VolumeChoice = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="1=NAME,...", help="Names, else those of ID.json.", show_default=False
        ),
    ] = None,
    seg_type: Annotated[
        str, typer.Option("--seg-type", help="How a SEG stores segments: binary or labelmap.")
    ] = "binary",
    allow_tilt: AllowTilt = False,
    allow_resample_z: AllowResampleZ = False,
    slice_thickness: SliceThickness = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Write an existing mask as DICOM SEG or RTSTRUCT of the series it was drawn on.

    Example: `medseg to-dicom out/masks/a.nii.gz --source study/ -o out/dicom --format dicom-seg,rtstruct`
    """
    with session("to-dicom", subject=str(mask), as_json=json, quiet=quiet, verbose=verbose) as report:
        from medseg.data.studies import Wanted
        from medseg.workflows.to_dicom import OBJECTS, SEG_TYPES, Export, parse_labels, parse_names
        from medseg.workflows.to_dicom import to_dicom as work

        check_thickness(slice_thickness)
        kind, *more = parse_names(seg_type, SEG_TYPES, "--seg-type")
        if more:
            raise ConfigError("--seg-type takes one name", hint=" or ".join(SEG_TYPES))
        export = Export(parse_names(format_, OBJECTS), parse_labels(labels) if labels else {}, kind)
        request = Wanted(series, volume, allow_tilt, allow_resample_z, slice_thickness)
        progress = make_progress(quiet=quiet)
        work(mask, source, out, export, request, progress=progress, report=report, key_file=find_key())
        progress.say(summarise(report))


def find_key() -> Path:
    """Return the file of the site's key for pseudonyms."""
    from medseg.tracking.place import find_home

    return find_home() / "pseudonym.key"


def check_thickness(thickness_mm: float | None) -> None:
    """Refuse a thickness that is no positive number.

    Raises:
        ConfigError: The option is impossible.
    """
    if thickness_mm is not None and not (0 < thickness_mm < float("inf")):
        raise ConfigError("--slice-thickness is no positive number", hint="give millimetres")


def announce(paths: Sequence[Path], out: Path, request: Request, report: Report, progress: Progress) -> None:
    """Say what a dry run would write, and which cases it would refuse."""
    from medseg.data.cases import peek_key
    from medseg.workflows.convert import output_names
    from medseg.workflows.report import CaseResult
    from medseg.workflows.scans import find_scans, refuse_inputs_in

    refuse_inputs_in(out, paths)
    key_file = find_key()
    if not key_file.exists():
        progress.say("ids of DICOM scans are made up here: the first real run makes this site's key")
    key = peek_key(key_file)  # made once, by a command that writes: a dry run leaves no file at all
    cases = find_scans(paths, request, lambda: key)
    names = [name for case in cases if case.error is None for name in output_names(case.id)]
    for name in names:
        progress.say(f"dry run: {out / name} would be written")
    for case in cases:
        if case.error is not None:
            report.add(CaseResult.of_error(case.id, case.error))
    report.extra["dry_run"] = {"cases": len(cases), "outputs": names}


# ---- the table of inspect -----------------------------------------------------------------------

HEADINGS = ("no", "modality", "slices", "shape", "spacing mm", "verdict", "code", "id")


def lay_out(found: Findings) -> Iterator[str]:
    """Yield the lines of `inspect`: a table whose rows may be followed by indented lines."""
    rows = [_cells(entry, _printable(entry.place) or entry.name) for entry in found.entries]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    if rows:
        yield _join(HEADINGS, widths)
    studies = [entry.study for entry in found.entries]
    for entry, row, before in zip(found.entries, rows, [None, *studies], strict=False):
        if len(set(studies) - {None}) > 1 and entry.study != before:
            yield f"study {entry.study}" if entry.study else "files"
        yield _join(row, widths)
        yield from (f"      {line}" for line in _explain(entry))
    for warning, message in found.warnings:
        yield f"{warning}: {message}"
    yield f"{found.others} other files, {len(found.damaged)} damaged"
    yield from (f"      {_printable(name)}: {error.code}" for name, error in found.damaged[:SHOWN])
    if len(found.damaged) > SHOWN:
        yield f"      and {len(found.damaged) - SHOWN} more"


def _cells(entry: Entry, name: str) -> tuple[str, ...]:
    spacing = "x".join(f"{step:.4g}" for step in entry.spacing_mm or ())
    shape = "x".join(map(str, entry.shape or ()))
    slices = "" if entry.slices is None else str(entry.slices)
    cells = (str(entry.number), entry.modality, slices, shape, spacing, entry.verdict, entry.code, name)
    return tuple(cell or "-" for cell in cells)


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(w) if n == 0 else cell.ljust(w) for n, (cell, w) in enumerate(zip(cells, widths))]
    return "  ".join(padded).rstrip()


def _explain(entry: Entry) -> Iterator[str]:
    """Yield what stands below a row: the reason, warnings, volumes, names of structures."""
    if entry.message and entry.structures is None:
        yield entry.message + (f" (hint: {entry.hint})" if entry.hint else "")
    if entry.channels > 1:
        yield f"{entry.channels} channels"
    yield from (f"{code}: {message}" for code, message in entry.warnings)
    for volume in entry.volumes:
        number, _, slices, shape, spacing, verdict, code, _ = _cells(volume, "")
        about = f", {volume.label}" if volume.label else ""
        yield f"volume {number}: {slices} slices, {shape}, {spacing} mm{about}: {verdict} {code}".rstrip(" -")
        yield from (f"  {line}" for line in _explain(volume))
    if entry.structures is not None:
        named = ", ".join(_printable(name) for name in entry.names)
        yield (
            f"{entry.structures} structure{'s' * (entry.structures > 1)}: {named}"
            if named
            else "no structure"
        )


def _printable(text: str) -> str:
    """Return text that cannot steer a terminal: headers and file names come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
