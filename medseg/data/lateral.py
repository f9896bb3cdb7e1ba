"""Labels that come as left and right: mirrored left to right, each would be taught as the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medseg.core.errors import ConfigError
from medseg.data.settings import Augment

LEFT_RIGHT = 0  # the canonical axis from left to right
OPPOSITES = (("left", "right"), ("l", "r"), ("lt", "rt"), ("lh", "rh"), ("sin", "dex"), ("links", "rechts"))
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
WORD = re.compile(r"[^\W\d_][a-z]+|[^\W\d_a-z]+(?![a-z])|[a-z]|\d+")  # also the humps of camelCase


def find_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the classes that differ by their side alone: "kidney_left" and "kidney_right", "LLung", "RLung".

    Args:
        names: Of the classes 1, 2, ...: background is not among them.

    Returns:
        Pairs of classes, the lower one first.
    """
    classes = {_words(name): number for number, name in enumerate(names, start=1)}
    pairs = ((number, classes.get(_mirror(words), 0)) for words, number in classes.items())
    return tuple((one, other) for one, other in pairs if one < other)


def choose_mirror_axes(wanted: Sequence[int], dims: int, names: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """Return the axes that may be mirrored, in training and at inference, and why.

    Args:
        wanted: Axes that were asked for.
        dims: 2 or 3; an axis beyond is dropped.
        names: Of the classes 1, 2, ...
    """
    axes = tuple(axis for axis in sorted(set(wanted)) if axis < dims)
    if not axes:
        return (), "none: mirroring must be asked for"
    pairs = find_pairs(names)
    if LEFT_RIGHT in axes and pairs:
        one, other = (names[number - 1] for number in pairs[0])
        rest = tuple(axis for axis in axes if axis != LEFT_RIGHT)
        return rest, f"from the pipeline, without axis 0: {one} and {other} are left and right"
    return axes, "from the pipeline"


def choose_swaps(settings: Augment, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of classes to swap where a patch is mirrored left to right: none unless asked for.

    Raises:
        ConfigError: It is asked for, and no label comes as left and right.
    """
    pairs = find_pairs(names) if settings.swap_lateral else ()
    if settings.swap_lateral and not pairs:
        raise ConfigError(
            "augment.swap_lateral is set, but no two labels are left and right of a thing",
            hint="name them alike but for left and right, or use grid.mirror_axes instead",
            code="LATERAL_PAIR_MISSING",
        )
    return pairs


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in WORD.findall(name))


def _mirror(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words with left for right; the same where no word is a side."""
    return tuple(OPPOSITE.get(word, word) for word in words)
