"""Surface metrics against MONAI (the one slow test of this room: importing MONAI takes seconds)."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medseg.metrics import Pair
from medseg.metrics.surface import assd, hd, hd95, nsd

GRIDS = [
    ((24, 20, 16), (1.0, 1.0, 1.0)),
    ((24, 20, 16), (0.5, 1.25, 3.0)),
    ((12, 40, 9), (4.0, 0.75, 2.5)),
    ((32, 28, 1), (0.5, 1.25, 7.0)),
]


def blobs(shape, seed):
    """Two noisy, overlapping masks that reach the image border here and there."""
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(3)]
    return smooth[0] + 0.5 * smooth[1] > 0.05, smooth[0] + 0.5 * smooth[2] > 0.05


# MONAI 1.6 warns about an option that it sets itself.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_metrics_equal_monai():
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for shape, spacing_mm in GRIDS:
        for seed in range(4):
            masks = blobs(shape, seed)
            flat = shape[2] == 1
            reference, predicted = (
                torch.from_numpy(m[..., 0] if flat else m)[None, None].float() for m in masks
            )
            options = {"include_background": True, "spacing": list(spacing_mm[: 3 - flat])}
            theirs = {
                "hd_mm": compute_hausdorff_distance(predicted, reference, **options).item(),
                "hd95_mm": compute_hausdorff_distance(predicted, reference, percentile=95, **options).item(),
                "assd_mm": compute_average_surface_distance(
                    predicted, reference, symmetric=True, **options
                ).item(),
                "nsd": compute_surface_dice(predicted, reference, [1.5], **options).item(),
            }
            pair = Pair(*masks, spacing_mm)
            ours = {**hd(pair), **hd95(pair), **assd(pair), **nsd(pair, tolerance_mm=1.5)}
            # MONAI computes and answers in float32, which holds about seven digits.
            assert ours == pytest.approx(theirs, abs=1e-6, rel=1e-6), (shape, spacing_mm, seed)
