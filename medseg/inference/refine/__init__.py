"""Refine probabilities on the preprocessed grid, before they are exported.

A step is `(probabilities_CIJK, image_CIJK, geometry, *, options) -> probabilities_CIJK`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

REFINE: dict[str, Callable[..., NDArray[np.float32]]] = {}

__all__ = ["REFINE"]
