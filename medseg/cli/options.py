"""Options that several verbs share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.core.errors import ConfigError

Out = Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file whose first key is `pipeline:`.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more.", show_default=False)]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of all randomness.", show_default=False)]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default=False)]
MemoryGb = Annotated[
    float | None, typer.Option("--memory-gb", help="Memory to plan for.", show_default=False)
]
Pseudonymize = Annotated[
    bool, typer.Option("--pseudonymize", help="Replace case ids by pseudonyms under this site's key.")
]
DataFolder = Annotated[
    Path, typer.Option("--data", help="Labelled cohort: folder or table.", show_default=False)
]
Pipeline = Annotated[str, typer.Argument(help="Name of a pipeline, or a .py file.", show_default=False)]
Tracking = Annotated[bool, typer.Option("--tracking/--no-tracking", help="Log to MLflow.")]
Fold = Annotated[str, typer.Option("--fold", help="0, 1, ... or all.")]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes", min=0, help="Train for about this long instead of train.epochs.", show_default=False
    ),
]
AutoShrink = Annotated[
    bool,
    typer.Option("--auto-shrink", help="Where memory runs out, pass batches in parts and go on."),
]


def common(
    seed: int | None, device: str | None, memory_gb: float | None, settings: list[str] | None
) -> list[str]:
    """Return the shared options as `key=value` settings, after those of `--set`."""
    named = {"seed": seed, "device": device, "memory_gb": memory_gb}
    return [*(settings or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def parse_labels(text: str) -> dict[int, str]:
    """Return value -> name of "1,2" or "1=organ,2=lesion"; a value without a name is its own.

    Raises:
        ConfigError: It is not that.
    """
    parts = [part.partition("=") for part in text.split(",")]
    try:
        return {int(value): name.strip() or value.strip() for value, _, name in parts}
    except ValueError:
        raise ConfigError(
            f"--labels {text} is not a list of numbers", hint="for example --labels 1=organ,2=lesion"
        ) from None
