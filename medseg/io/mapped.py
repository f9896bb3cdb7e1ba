"""A NIfTI volume that is larger than memory: written in any order, compressed at the end."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medseg.io.compression import compress_into

PIECE_BYTES = 1 << 22  # compressed at once


class Mapped:
    """An array in a file.

    Args:
        file: Open for reading and writing; `offset` bytes and the array.
        offset: Where the array begins.
        shape: (C, I, J, K); in the file i runs fastest and c slowest.
    """

    def __init__(self, file: IO[bytes], offset: int, shape: tuple[int, ...]) -> None:
        self._map = mmap.mmap(file.fileno(), 0)
        stored = np.frombuffer(self._map, "<u2", offset=offset)
        channels, i, j, k = shape
        self.array: NDArray[Any] = stored.reshape(channels, k, j, i).transpose(0, 3, 2, 1)

    def release(self) -> None:
        """Give back the memory of what was written; the file has it."""
        self._map.madvise(mmap.MADV_DONTNEED)


@contextmanager
def map_volume(path: Path, head: bytes, shape: tuple[int, ...]) -> Iterator[Mapped]:
    """Yield (C, I, J, K) uint16 zeros to write to; they go to `path`, compressed, if the block ends well.

    The space is taken at once, so that a full disk is an OSError here and not a signal later.
    """
    with tempfile.TemporaryFile(dir=path.parent) as file:
        os.posix_fallocate(file.fileno(), 0, len(head) + 2 * prod(shape))
        file.write(head)
        file.flush()
        mapped = Mapped(file, len(head), shape)
        yield mapped
        mapped.release()
        file.seek(0)
        compress_into(path, iter(lambda: file.read(PIECE_BYTES), b""))
