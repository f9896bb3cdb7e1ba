"""Configuration files of a bundle as data: references are followed, expressions never run.

In MONAI's language `@name` refers to another entry (`@a::b` or `@a#b` to one inside it), `$...` is Python,
and `_target_` names what to call (https://docs.monai.io/en/stable/config_syntax.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medseg.core.errors import CheckpointError

Tree = dict[str, Any]
MISSING = object()
DEEPEST = 20  # references that refer to references


def refuse(what: str) -> CheckpointError:
    """Return the error for a bundle that needs what is not known here."""
    return CheckpointError(
        f"the bundle needs {what}, which is not supported",
        hint="run it with MONAI, or write it with literals and known names",
        code="BUNDLE_UNSUPPORTED",
    )


def find(tree: Tree, *places: str) -> Any:
    """Return the first entry that there is of `a` or `a::b`, or None."""
    for place in places:
        found = _walk(tree, place, place)
        if found is not MISSING:
            return _follow(tree, found, place)
    return None


def list_calls(
    tree: Tree, entry: Any, where: str, idle: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and entry of each transform of a `Compose` or a list; disabled and idle ones are left out.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED where it is an expression, or something else.
    """
    steps = _follow(tree, entry, where)
    if isinstance(steps, Mapping):
        if target_of({"_target_": "Compose", **steps}) != "Compose" or "transforms" not in steps:
            raise refuse(f"`{steps.get('_target_')}` for {where}")
        steps = _follow(tree, steps["transforms"], where)
    if not isinstance(steps, list):
        raise refuse(f"the expression `{str(steps)[:60]}` for {where}")
    for step in steps:
        step = _follow(tree, step, where)
        name = target_of(step)
        if name not in idle and read_literal(tree, step.get("_disabled_", False), name) is not True:
            yield name, step


def read_literal(tree: Tree, value: Any, where: str) -> Any:
    """Return a value with all references replaced.

    Args:
        tree: The configuration that references look in.
        value: Any part of it.
        where: For messages.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED where it holds an expression, or something to be called.
    """
    value = _follow(tree, value, where)
    if isinstance(value, str) and value.startswith(("$", "%")):
        raise refuse(f"the expression `{value[:60]}` for {where}")
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise refuse(f"`{value['_target_']}` for {where}")
        return {str(key): read_literal(tree, one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, list):
        return [read_literal(tree, one, where) for one in value]
    return value


def target_of(entry: Any) -> str:
    """Return the bare name of what an entry calls: "Spacingd" of "monai.transforms.Spacingd"."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
        raise refuse("an entry without `_target_`")
    return str(entry["_target_"]).rpartition(".")[2]


def _follow(tree: Tree, value: Any, where: str, left: int = DEEPEST) -> Any:
    while isinstance(value, str) and value.startswith("@"):
        if not left:
            raise refuse(f"references in a circle for {where}")
        left -= 1
        name, value = value, _walk(tree, value[1:], where, left)
        if value is MISSING:
            raise refuse(f"the reference `{name}` for {where}")
    return value


def _walk(tree: Tree, place: str, where: str, left: int = DEEPEST) -> Any:
    found: Any = tree
    for part in re.split("::|#", place):
        found = _follow(tree, found, where, left)
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return MISSING
    return found
