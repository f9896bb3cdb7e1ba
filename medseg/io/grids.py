"""What every format's affine must fulfil before its grid is believed."""

from __future__ import annotations

import numpy as np

from medseg.core.errors import GeometryError
from medseg.core.geometry import Affine, Geometry

MAX_SHEAR = 1e-3
"""Largest cosine between two index axes.

Headers in float32 leave about 1e-6. At 1e-3 the far end of a 512-voxel axis lies half a voxel beside where
a reader that assumes right angles (ITK, DICOM, every qform) puts it; the same limit holds for DICOM series.
"""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_grid(shape: tuple[int, ...], affine: Affine, prefix: str) -> Geometry:
    """Return the grid, if its axes are finite, independent and at right angles.

    Args:
        shape: (I, J, K).
        affine: (4, 4) index -> RAS+ millimetres.
        prefix: First word of the error codes.

    Raises:
        GeometryError: *_AFFINE (NaN, infinite, singular) or *_SHEARED.
    """
    i, j, k = shape
    try:
        geometry = Geometry((i, j, k), affine)
    except GeometryError as error:
        hint = "export the scan again; its position in space cannot be recovered"
        raise GeometryError(error.message, hint=hint, code=f"{prefix}_AFFINE") from error
    cosines = geometry.direction.T @ geometry.direction - np.eye(3)
    if np.abs(cosines).max() > MAX_SHEAR:
        raise GeometryError(
            f"the axes are not at right angles (cosine {np.abs(cosines).max():.3g}, at most {MAX_SHEAR})",
            hint="resample the scan to an orthogonal grid",
            code=f"{prefix}_SHEARED",
        )
    return geometry
