"""doctor: is this machine fit, and what is slow or wrong on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import session
from medseg.core.errors import ResourceError


def doctor(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where runs are to go; its disk is looked at.", show_default=False),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check versions, devices, known faults, the speed of convolutions, disks, decoders and tracking.

    Example: `medseg doctor`
    """
    with session("doctor", as_json=json, quiet=quiet) as report:
        from medseg.workflows.doctor import examine

        findings = examine(out or Path.cwd())
        report.extra["findings"] = [finding.to_json() for finding in findings]
        if not json:
            for finding in findings:
                if finding.verdict != "ok" or not quiet:
                    print(f"{finding.verdict:<4} {finding.name}: {finding.value}")
                    if finding.hint:
                        print(f"     hint: {finding.hint}")
        if bad := [finding.name for finding in findings if finding.verdict == "bad"]:
            raise ResourceError(
                f"not fit for medseg: {', '.join(bad)}", hint="see the hints above", code="MACHINE_UNFIT"
            )
