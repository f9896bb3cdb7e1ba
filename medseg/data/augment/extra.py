"""MONAI's dictionary transforms, or anything called like them, on a patch that is otherwise done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import ConfigError


def apply_extra(
    transforms: Sequence[Callable[[dict[str, Any]], dict[str, Any]]], image: Tensor, label: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Run the transforms in their order; random ones are seeded from `seed`.

    Args:
        transforms: Called with {"image": (C, I, J, K) float32, "label": (1, I, J, K) uint8}.
        image: (C, I, J, K), on the CPU.
        label: (I, J, K) uint8.
        seed: The only source of chance.

    Raises:
        ConfigError: A transform changes the shape or invents a label.
    """
    rng = np.random.default_rng(seed)
    known = [0, *np.unique(label.numpy())]  # before a transform may write into it
    pair: dict[str, Any] = {"image": image, "label": label[None]}
    for transform in transforms:
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=int(rng.integers(2**31)))
        pair = transform(pair)
    # By numpy: MONAI's own tensor type and its metadata stay here.
    image_out, label_out = (np.asarray(torch.as_tensor(pair[key])) for key in ("image", "label"))
    if image_out.shape != image.shape or label_out.shape != (1, *label.shape):
        raise ConfigError(
            f"augment.extra turns a patch of shape {tuple(image.shape)} into {image_out.shape}",
            hint="name transforms that keep the shape",
            code="TRANSFORM_SHAPE",
        )
    if not np.isin(label_out, known).all():
        raise ConfigError(
            "augment.extra interpolates the label: values appear that were not there",
            hint="give the transform `mode: nearest` for the label, or `keys: [image]`",
            code="TRANSFORM_LABELS",
        )
    return (
        torch.from_numpy(np.ascontiguousarray(image_out, np.float32)),
        torch.from_numpy(np.ascontiguousarray(label_out[0], np.uint8)),
    )
