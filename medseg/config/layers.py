"""Layers of settings: pipeline < YAML file < `--set key=value`; the only place that knows YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medseg.config.schema import Config
from medseg.core.errors import ConfigError
from medseg.core.files import write_text
from medseg.core.select import suggest

Tree = dict[str, Any]
REPLACED = {"labels", "label_map"}  # mappings that mean something only as a whole
FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Reads `1e-3` as a number, as YAML 1.2 does; PyYAML follows 1.1 and wants `1.0e-3`."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number."""


_Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))


def resolve(pipeline: Config, file: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """Return the pipeline with a YAML file and `key=value` settings laid over it.

    Raises:
        ConfigError: An unknown key (the hint names the nearest), a bad value or unreadable YAML.
    """
    tree = pipeline.model_dump()
    if file is not None:
        layer = _read_yaml(file)
        named = layer.pop("pipeline", pipeline.name)
        if named != pipeline.name:
            raise ConfigError(f"{file.name} is for pipeline `{named}`, not `{pipeline.name}`")
        tree = _merge(tree, layer)
    for setting in settings:
        tree = _merge(tree, _parse_setting(setting))
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """Validate a plain tree.

    Raises:
        ConfigError: With every problem listed and the nearest known key as a hint.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error) from None


def dump(config: Config) -> str:
    """Return the whole config as YAML, first key `pipeline`."""
    tree = config.model_dump(mode="json")
    named = {"pipeline": tree.pop("name"), **tree}
    return yaml.dump(named, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def save(config: Config, path: Path) -> None:
    """Write `dump(config)` atomically."""
    write_text(path, dump(config))


def load(path: Path) -> Config:
    """Read what `save` wrote.

    Raises:
        ConfigError: Missing, unreadable or invalid.
    """
    tree = _read_yaml(path)
    return parse({"name": tree.pop("pipeline", ""), **tree})


def differences(old: Config, new: Config) -> list[str]:
    """Return `key: old -> new` for every setting that differs."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in dict.fromkeys([*before, *after])
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Return {"train.epochs": 3, ...} of a nested mapping; lists stay values."""
    flat: Tree = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _merge(below: Tree, above: Mapping[Any, Any]) -> Tree:
    """Lay one tree over another; a builder with another name drops the old one's options."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        renamed = isinstance(old, dict) and isinstance(value, Mapping) and set(old) == {"name", "options"}
        if renamed and isinstance(old, dict) and value.get("name", old["name"]) != old["name"]:
            merged[key] = dict(value)
        elif isinstance(old, dict) and isinstance(value, Mapping) and key not in REPLACED:
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _parse_setting(setting: str) -> Tree:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"`--set {setting}` is not key=value", hint="for example --set train.epochs=50")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of `--set {key}` is not valid YAML") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", hint="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())  # YAML errors span lines; ours are two
        raise ConfigError(f"{path.name} is not valid YAML ({why})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name} holds no mapping", hint="first key: pipeline")
    return tree


def explain(error: ValidationError) -> ConfigError:
    """Return every problem that pydantic found as one error, with the nearest known keys as the hint."""
    lines, hints = [], []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key `{where}`")
            hints.append(suggest(str(problem["loc"][-1]), _keys_at(problem["loc"][:-1])))
        else:
            lines.append(f"`{where}`: {problem['msg']}")
    code = "UNKNOWN_KEY" if hints else "CONFIG"
    return ConfigError("; ".join(lines), hint="; ".join(hints) or "see `medseg config show`", code=code)


def _keys_at(location: Sequence[str | int]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        if field := section.model_fields.get(str(part)):  # else a mapping's key or a list's index
            section = next(_sections_in(field.annotation), section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type is or holds: `Channel` of `dict[str, Channel]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)
