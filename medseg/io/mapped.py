"""A NIfTI volume that is larger than memory: filled plane by plane along any axis, compressed at the end."""

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

PIECE_BYTES = 1 << 24  # brought into the file's order, and compressed, at once


class Mapped:
    """An array in a scratch file, in which all channels of a plane lie together, one plane after the other.

    Args:
        file: Open for reading and writing, and as long as the array.
        shape: (C, I, J, K).
        slowest: Axis of I, J, K that planes lie along.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], slowest: int) -> None:
        self._file, self._slowest = file, slowest
        self._map = mmap.mmap(file.fileno(), 0)
        axes = [1 + slowest, 0, *(1 + axis for axis in (2, 1, 0) if axis != slowest)]
        self._stored = np.frombuffer(self._map, "<u2").reshape([shape[axis] for axis in axes])
        self.array: NDArray[Any] = self._stored.transpose(np.argsort(axes))

    def release(self, part: NDArray[Any]) -> None:
        """Give back the memory of a part of `array`, and of what lies between its ends; the file has it."""
        first = part.ctypes.data - self._stored.ctypes.data
        ways = [(size - 1) * stride for size, stride in zip(part.shape, part.strides, strict=True)]
        low, high = (first + sum(way for way in ways if (way > 0) is is_up) for is_up in (False, True))
        low -= low % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, low, high + part.itemsize - low)

    def read(self) -> Iterator[memoryview]:
        """Yield the array as NIfTI has it: c slowest, then k and j, i fastest."""
        channels, i, j, k = self.array.shape
        step = max(1, PIECE_BYTES // (2 * i * j))
        for channel in range(channels):
            for start in range(0, k, step):
                yield self._read_slices(channel, range(start, min(k, start + step)))

    def _read_slices(self, channel: int, slices: range) -> memoryview:
        """Return (slices, J, I) of a channel.

        The file is read, not mapped: the system maps more than what is looked at.
        """
        planes, channels, rows, columns = self._stored.shape
        if self._slowest == 2:
            lines, first, count = slices, 0, rows
        else:
            lines, first, count = range(planes), slices.start, len(slices)
        block = np.empty((len(lines), count, columns), "<u2")
        for line, content in zip(lines, block):
            at = ((line * channels + channel) * rows + first) * columns
            os.preadv(self._file.fileno(), [content.data], 2 * at)
        order = {0: (1, 2, 0), 1: (1, 0, 2), 2: (0, 1, 2)}[self._slowest]
        return np.ascontiguousarray(block.transpose(order)).data.cast("B")


@contextmanager
def map_volume(path: Path, head: bytes, shape: tuple[int, ...], slowest: int) -> Iterator[Mapped]:
    """Yield (C, I, J, K) uint16 zeros to write to; they go to `path`, compressed, if the block ends well.

    The space is taken at once, so that a full disk is an OSError here and not a signal later.

    Args:
        path: Of the file; the scratch file lies beside it, without a name.
        head: What comes before the array.
        shape: (C, I, J, K).
        slowest: Axis of I, J, K along which it will be filled: one plane is then close together.
    """
    with tempfile.TemporaryFile(dir=path.parent) as file:
        os.posix_fallocate(file.fileno(), 0, 2 * prod(shape))
        mapped = Mapped(file, shape, slowest)
        yield mapped
        compress_into(path, _chain(head, mapped.read()))


def _chain(head: bytes, pieces: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    yield head
    yield from pieces
