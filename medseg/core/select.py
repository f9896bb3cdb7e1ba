"""Pick a builder from a plain dict by name, with its options checked against its signature.

One rule makes the signature the schema: *positional = medseg passes it at run time, keyword-only =
the user's YAML*.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from medseg.core.errors import ConfigError

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest match, or else all that is known."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(names) or 'none'}"


def select(
    kind: str, table: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any] | None = None
) -> Callable[..., T]:
    """Return `table[name]` with the user's options bound.

    Args:
        kind: What is selected, for messages: "loss", "model", ...
        table: The room's dict of builders.
        name: A key of `table`, or "package.module:attribute" for code outside medseg.
        options: Keyword-only options from the user.

    Raises:
        ConfigError: Unknown name or option; the hint names the nearest match.
    """
    builder = _import(kind, name) if ":" in name else table.get(name)
    if builder is None:
        raise ConfigError(f"no {kind} is called `{name}`", hint=suggest(name, table), code="UNKNOWN_NAME")
    parameters = inspect.signature(builder).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if ":" in name and not known:  # code that was not written for the rule above, such as MONAI's
        known = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options or {}:
        if option not in known and not open_ended:
            raise ConfigError(
                f"{kind} `{name}` has no option `{option}`",
                hint=suggest(option, known),
                code="UNKNOWN_OPTION",
            )
    return partial(builder, **(options or {}))


def _import(kind: str, name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    hint = "give package.module:attribute of an importable function"
    try:
        if not module or module.startswith("."):
            raise ImportError("the module's name is not absolute")
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{kind} `{name}` cannot be imported: {error}", hint=hint, code="UNKNOWN_NAME"
        ) from error
    if not callable(found):
        raise ConfigError(f"{kind} `{name}` is not a function", hint=hint, code="UNKNOWN_NAME")
    return found  # type: ignore[no-any-return]
