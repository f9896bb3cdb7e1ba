"""Random changes to a training patch: first a draw that can be printed and replayed, then applied.

All spatial changes (crop, flip, quarter turn, rotation, scale, elastic, grid distortion) are one map from
patch voxels to case voxels, applied in one resampling: image linear, label nearest, on the same points.
MONAI's chain resamples once per transform, and its lazy mode corrupts labels (Project-MONAI/MONAI#6850).

Draws are made of numpy, where the case is read; what they say is done by torch operations, so that the
same code runs on a CPU and on a GPU. Probabilities and ranges are nnU-Net's (Isensee et al. 2021, suppl.
note 2) where it has the change at all.

Shape legend: C channels, (I, J, K) patch voxels.
"""

from medseg.data.augment.intensity import IntensityDraw, apply_intensity, draw_intensity
from medseg.data.augment.spatial import SpatialDraw, draw_spatial
from medseg.data.augment.warp import apply_spatial, read_box

__all__ = [
    "IntensityDraw",
    "SpatialDraw",
    "apply_intensity",
    "apply_spatial",
    "draw_intensity",
    "draw_spatial",
    "read_box",
]
