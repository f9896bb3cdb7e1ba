"""How nnU-Net goes from one grid to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medseg.data.resample import ANISOTROPY, Orders

Order = Literal[0, 1, 3]


class Resampling(BaseModel):
    """Arguments of `resample_data_or_seg_to_shape`.

    Args:
        order: Of the interpolation: 0 nearest, 1 linear, 3 cubic.
        order_z: Across the coarse axis, where that is treated on its own.
        force_separate_z: Whether it always or never is; None: where it is three times as coarse.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    order: Order = 3
    order_z: Order = 0
    force_separate_z: bool | None = False

    def choose_orders(self, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Orders:
        """Return the interpolation order of each axis (nnunetv2, `determine_do_sep_z_and_axis`).

        Args:
            spacing_mm: (3,) of what is resampled: it is looked at first.
            target_mm: (3,) wanted.
        """
        candidates = [spacing_mm, target_mm] if self.force_separate_z is None else [spacing_mm]
        for spacing in candidates if self.force_separate_z is not False else []:
            if self.force_separate_z or max(spacing) / min(spacing) > ANISOTROPY:
                coarse = [step == max(spacing) for step in spacing]
                is_alone = sum(coarse) == 1
                i, j, k = (self.order_z if is_alone and is_coarse else self.order for is_coarse in coarse)
                return i, j, k
        return self.order, self.order, self.order
