"""What a file format is to medseg: a few plain functions in one tuple."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume


class Format(NamedTuple):
    """One entry of `FORMATS`.

    Args:
        sniff: The first `SNIFF_BYTES` of a file -> whether it looks like this format.
        read: Path -> the whole image; refuses what is damaged or ambiguous.
        write: (temporary path, image, file whose header to copy or None); the caller makes it atomic.
        read_geometry: Path -> the grid, from the header alone.
        suffixes: Lower-case file name endings, also those that are only read.
    """

    sniff: Callable[[bytes], bool]
    read: Callable[[Path], Volume]
    write: Callable[[Path, Volume, Path | None], None]
    read_geometry: Callable[[Path], Geometry]
    suffixes: tuple[str, ...]


SNIFF_BYTES = 1024
