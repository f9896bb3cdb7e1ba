"""The border to the file system: bytes come in here, and names found in headers never become paths."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.core.errors import ConfigError, DataError, FormatError

MAX_EXPANSION = 1032
"""Most bytes that one byte of a deflate stream can become (zlib technical notes, "Maximum Compression
Factor"); a header that asks for more than this many times the file cannot be telling the truth."""

DEFAULT_IMAGE_GB = 32.0
"""Four 2048^3 volumes of bytes: more is a decompression bomb until somebody says otherwise."""


def max_image_bytes() -> int:
    """Return how many bytes of voxels one image may have: MEDSEG_MAX_IMAGE_GB GiB.

    Raises:
        ConfigError: CONFIG, where the variable is no positive number.
    """
    text = os.environ.get("MEDSEG_MAX_IMAGE_GB", "") or str(DEFAULT_IMAGE_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ConfigError(
            f"MEDSEG_MAX_IMAGE_GB is `{text}`, not a positive number", hint="give GiB, or unset it"
        )
    return int(limit * 2**30)


def read_bytes(path: Path, prefix: str, count: int = -1) -> bytes:
    """Return the first `count` bytes of a file, or all of it.

    Args:
        path: The file.
        prefix: First word of the error code, e.g. "NII" for NII_EMPTY.
        count: How many; -1 for all.

    Raises:
        FormatError: The file is empty.
        DataError: FILE_MISSING or FILE_UNREADABLE.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(count)
    except FileNotFoundError as error:
        raise DataError("the file does not exist", hint="check the path", code="FILE_MISSING") from error
    except OSError as error:
        raise DataError(
            f"the file cannot be read ({error.strerror})",
            hint="check its permissions",
            code="FILE_UNREADABLE",
        ) from error
    if not data:
        raise FormatError(
            "the file is empty (0 bytes)", hint="copy or export it again", code=f"{prefix}_EMPTY"
        )
    return data


def find_sibling(path: Path, name: str) -> Path:
    """Return the file beside `path` that is called `name`.

    `name` comes from a header, so it is only compared with the names that the folder really holds; it is
    never joined to a path and cannot lead out of the folder.

    Raises:
        FormatError: There is no such plain file.
    """
    for candidate in path.parent.iterdir():
        if candidate.name == name and candidate.is_file() and not candidate.is_symlink():
            return candidate
    raise FormatError(
        "the header names a data file that is not in the header's folder",
        hint="put both files in one folder, or save as one .mha or .nii.gz file",
        code="DETACHED_DATA",
    )
