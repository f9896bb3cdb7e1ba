"""Find pipelines: entry points of group `medseg.pipelines`, or a `.py` file."""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import ValidationError

from medseg.config.layers import explain
from medseg.config.schema import Config
from medseg.core.errors import ConfigError
from medseg.core.select import suggest

GROUP = "medseg.pipelines"


def list_pipelines() -> list[str]:
    """Return the names of all installed pipelines."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_pipeline(name: str) -> Config:
    """Return the CONFIG of an installed pipeline or of a `.py` file.

    Raises:
        ConfigError: Unknown name (the hint names the nearest), no file, or no CONFIG in it.
    """
    if name.endswith(".py"):
        return _load_file(Path(name))
    for point in entry_points(group=GROUP):
        if point.name == name:
            return _config_of(point.load(), name)
    raise ConfigError(
        f"no pipeline is called `{name}`", hint=suggest(name, list_pipelines()), code="UNKNOWN_PIPELINE"
    )


def _load_file(path: Path) -> Config:
    spec = importlib.util.spec_from_file_location(f"medseg_pipeline_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"there is no pipeline file {path}", code="UNKNOWN_PIPELINE")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise explain(error) from None
    except (SyntaxError, ImportError) as error:
        raise ConfigError(
            f"pipeline file {path.name} cannot be loaded: {error}", code="PIPELINE_BROKEN"
        ) from error
    return _config_of(module, path.name)


def _config_of(module: object, name: str) -> Config:
    config = getattr(module, "CONFIG", None)
    if not isinstance(config, Config):
        raise ConfigError(f"pipeline {name} defines no CONFIG = Config(...)")
    return config
