"""list and config show: what there is to choose from, and what a pipeline sets."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli import options as o
from medseg.cli.session import session
from medseg.core.errors import ConfigError

config_app = typer.Typer(help="Look at settings.", no_args_is_help=True)


def list_entries(
    what: Annotated[
        str,
        typer.Argument(
            help="pipelines, models, losses, optimizers, metrics, refine, postprocess or formats."
        ),
    ] = "pipelines",
) -> None:
    """List pipelines, models, losses, optimizers, metrics, refine steps, post-processing steps or formats.

    Example: `medseg list models`
    """
    with session("list"):
        for name in _names(what):
            print(name)


def _names(what: str) -> list[str]:
    from medseg.core.select import suggest

    kinds = ("pipelines", "models", "losses", "optimizers", "metrics", "formats", "refine", "postprocess")
    if what not in kinds:
        raise ConfigError(f"there is no list of `{what}`", hint=suggest(what, kinds), code="UNKNOWN_NAME")
    if what == "pipelines":
        from medseg.config.pipelines import list_pipelines

        return list_pipelines()
    import importlib

    rooms = {"formats": "io", "optimizers": "train.optimizers", "refine": "inference.refine"}
    module = rooms.get(what, what)
    return sorted(getattr(importlib.import_module(f"medseg.{module}"), what.upper()))


@config_app.command("show")
def show(
    pipeline: o.Pipeline,
    config: o.ConfigFile = None,
    set_: o.Settings = None,
) -> None:
    """Print the resolved settings of a pipeline as YAML.

    Example: `medseg config show hippocampus_mr --set train.epochs=20`
    """
    with session("config", subject=pipeline):
        from medseg.cli.cohort import resolve_config
        from medseg.config.layers import dump

        print(dump(resolve_config(pipeline, config, set_ or [])), end="")
