"""What NRRD and MetaImage headers have in common: an array in a file, and where its axes point."""

from __future__ import annotations

import bz2
import math
from typing import Any, NamedTuple

import numpy as np

from medseg.core.errors import FormatError
from medseg.core.geometry import Affine, Geometry
from medseg.core.volume import Volume
from medseg.io.compression import DEFLATED, PLAIN, Stream
from medseg.io.grids import make_grid
from medseg.io.safety import MAX_EXPANSION, max_image_bytes

WBITS = {"raw": PLAIN, "gzip": DEFLATED, "gz": DEFLATED, "zlib": DEFLATED, "bzip2": PLAIN, "bz2": PLAIN}


class Layout(NamedTuple):
    """A checked header.

    Args:
        sizes: Axis lengths, fastest first: two or three spatial axes and perhaps one of channels.
        channel_axis: Which of `sizes` it is, or None.
        dtype: Of the stored voxels, with byte order.
        encoding: A key of `WBITS`.
        start: First voxel byte, in this file or in `data_name`.
        affine: (4, 4) index -> RAS+ millimetres.
        prefix: First word of the error codes.
        data_name: The file that holds the voxels, or "" for the header's own.
    """

    sizes: tuple[int, ...]
    channel_axis: int | None
    dtype: np.dtype[Any]
    encoding: str
    start: int
    affine: Affine
    prefix: str
    data_name: str = ""

    @property
    def geometry(self) -> Geometry:
        """The grid of the spatial axes; 2D has K = 1."""
        shape = [size for axis, size in enumerate(self.sizes) if axis != self.channel_axis]
        with np.errstate(all="ignore"):  # numbers beyond float64 are found as not finite
            return make_grid((*shape, 1)[:3], self.affine, self.prefix)


def decode(layout: Layout, stored: memoryview) -> Volume:
    """Return the volume, if `stored` holds exactly what the header asks for.

    Args:
        layout: The header.
        stored: From the first voxel byte to the end of the file.

    Raises:
        FormatError: *_TRUNCATED, *_TRAILING, *_CRC or *_TOO_LARGE.
    """
    geometry = layout.geometry
    needed = math.prod(layout.sizes) * layout.dtype.itemsize
    if needed > (limit := max_image_bytes()):
        raise _error(layout, "TOO_LARGE", f"the header asks for {needed} bytes, more than {limit}")
    if layout.encoding in ("bzip2", "bz2"):
        stored = memoryview(_decompress_bzip2(layout, stored, needed))
    wbits = WBITS[layout.encoding]
    if needed > len(stored) * (MAX_EXPANSION if wbits else 1):
        raise _error(layout, "TRUNCATED", f"{len(stored)} bytes cannot hold the {needed} of the header")
    stream = Stream(stored, wbits, layout.prefix)
    voxels = np.frombuffer(stream.take(needed), layout.dtype)
    stream.finish()
    array = voxels.astype(layout.dtype.newbyteorder("="), copy=False)
    array = array.reshape(layout.sizes, order="F")
    array = array[None] if layout.channel_axis is None else np.moveaxis(array, layout.channel_axis, 0)
    return Volume(array.reshape(len(array), *geometry.shape, order="A"), geometry)


def _decompress_bzip2(layout: Layout, stored: memoryview, needed: int) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        data = decompressor.decompress(stored, needed)
        data += decompressor.decompress(b"", 1) if not (decompressor.eof or decompressor.needs_input) else b""
    except OSError as error:
        raise _error(layout, "CRC", "the compressed stream is damaged") from error
    if decompressor.needs_input and not decompressor.eof:
        raise _error(layout, "TRUNCATED", "the compressed stream breaks off before its end")
    return data


def _error(layout: Layout, code: str, message: str) -> FormatError:
    return FormatError(
        message,
        hint="copy or export the file again; it is damaged or incomplete",
        code=f"{layout.prefix}_{code}",
    )
