"""The one door to SimpleITK: decode a picture that was checked before, or write a volume.

Its error texts hold paths, so they are not passed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError
from medseg.core.geometry import Affine


def decode_picture(path: Path) -> NDArray[Any]:
    """Return (rows, columns, samples) of a PNG or TIFF file.

    Raises:
        FormatError: PIXELS_DECODE.
    """
    sitk = _load()
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise FormatError(
            "the decoder refuses the content", hint="copy or export the file again", code="PIXELS_DECODE"
        ) from None
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array[..., None] if array.ndim == 2 else array


def encode(path: Path, array_CIJK: NDArray[Any], affine_lps: Affine) -> None:
    """Write a compressed volume.

    Raises:
        FormatError: ITK_WRITE.
    """
    sitk = _load()
    several = len(array_CIJK) > 1
    stored = array_CIJK.transpose(3, 2, 1, 0) if several else array_CIJK[0].transpose(2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored), isVector=several)
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise FormatError(
            f"the format cannot hold {array_CIJK.dtype} voxels", hint="write .nii.gz", code="ITK_WRITE"
        ) from None


def _load() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # refusals are raised, not printed
    return SimpleITK
