"""Where the structures can be: a tiny network on a few coarse voxels, and a margin in which none was missed.

locator.safetensors    its weights
locator.json           its grid, the threshold and margin chosen on held-out cases, and their recall

Shape legend: C channels, (I, J, K) voxels, (P, Q, R) coarse voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.core.errors import CheckpointError, DataError
from medseg.core.files import read_json, sha256_of, sha256_of_file
from medseg.inference.windows import Box
from medseg.models import Grid
from medseg.models.strided_unet import strided_unet

FILES = ("locator.json", "locator.safetensors")
SPACING_MM, STEPS = 6.0, 4.0  # coarse voxels: 6 mm, or 4 of the plan's where that is less
FEATURES = (8, 16, 32, 32)
SMALLEST = 2 ** (len(FEATURES) - 1)  # edge in coarse voxels that leaves one at the coarsest level
LEAST_RECALL = 1 - 1e-3  # of held-out foreground inside the box; below it the locator is not used
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Locator:
    """A trained locator.

    Args:
        network: (1, C, P, Q, R) -> (1, 2, P, Q, R) logits, in eval mode.
        spacing_mm: (3,) of coarse voxels, about.
        threshold: Probability from which a coarse voxel may be foreground.
        margin_mm: Around the box of those.
        recall: Share of held-out cases' foreground inside, each with the margin that the others need.
        sha256: Of both files.
    """

    network: nn.Module
    spacing_mm: tuple[float, float, float]
    threshold: float
    margin_mm: float
    recall: float
    sha256: str = field(default="")

    @property
    def is_trusted(self) -> bool:
        """Whether it misses little enough."""
        return self.recall >= LEAST_RECALL

    def find(self, image_CIJK: NDArray[Any], spacing_mm: Sequence[float]) -> Box | None:
        """Return the box of a preprocessed image that holds all structures; None where none is found.

        Args:
            image_CIJK: Preprocessed.
            spacing_mm: (3,) of its voxels.
        """
        edges = place_edges(image_CIJK.shape[1:], spacing_mm, self.spacing_mm)
        if max(map(len, edges)) - 1 <= SMALLEST:
            return None  # a single voxel cannot be normalised
        spans = find_spans(predict(self.network, shrink(image_CIJK, edges)) > self.threshold, edges)
        return None if spans is None else widen(spans, self.margin_mm, spacing_mm, image_CIJK.shape[1:])


def choose_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return the spacing of coarse voxels for a plan's."""
    coarse = min(SPACING_MM, STEPS * min(spacing_mm))
    i, j, k = (max(step, coarse) for step in spacing_mm)
    return i, j, k


def place_edges(
    shape: Sequence[int], spacing_mm: Sequence[float], coarse_mm: Sequence[float]
) -> list[NDArray[np.int64]]:
    """Return per axis the first voxel of each coarse one, and the end: all voxels belong to one."""
    counts = [max(1, round(n * fine / step)) for n, fine, step in zip(shape, spacing_mm, coarse_mm)]
    return [np.linspace(0, n, min(n, count) + 1).astype(np.int64) for n, count in zip(shape, counts)]


def shrink(image_CIJK: NDArray[Any], edges: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return (C, P, Q, R) means over coarse voxels; the image is never converted as a whole."""
    result = image_CIJK
    for axis, line in enumerate(edges, start=1):
        result = np.add.reduceat(result, line[:-1], axis=axis, dtype=np.float32)
        result /= np.diff(line).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
    return np.asarray(result, np.float32)


def build_network(n_channels: int, shape: Sequence[int]) -> nn.Module:
    """Return an untrained network for coarse images of about a shape; a flat axis is not halved further."""
    strides, left = [(1, 1, 1)], list(shape)
    for _ in FEATURES[1:]:
        steps = [2 if n >= 4 else 1 for n in left]
        left = [ceil(n / step) for n, step in zip(left, steps)]
        strides.append((steps[0], steps[1], steps[2]))
    grid = Grid(3, tuple(shape), (1.0, 1.0, 1.0), tuple(strides), ((3, 3, 3),) * len(strides))
    return strided_unet(n_channels, 2, grid, features=FEATURES)


@torch.inference_mode()
def predict(network: nn.Module, coarse_CPQR: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (P, Q, R) probabilities of foreground."""
    device = next(network.parameters()).device
    logits = network(torch.from_numpy(coarse_CPQR)[None].to(device))
    return np.asarray(logits.float().softmax(1)[0, 1].cpu().numpy())


def find_spans(mask_PQR: NDArray[np.bool_], edges: Sequence[NDArray[np.int64]]) -> Spans | None:
    """Return the box around coarse voxels in voxels, start and stop per axis; None around nothing."""
    if not mask_PQR.any():
        return None
    spans = []
    for axis, line in enumerate(edges):
        used = np.flatnonzero(mask_PQR.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(line[used[0]]), int(line[used[-1] + 1])))
    return tuple(spans)


def widen(spans: Spans, margin_mm: float, spacing_mm: Sequence[float], shape: Sequence[int]) -> Box:
    """Return the box with a margin, cut off at the image's border."""
    grown = [ceil(margin_mm / step) for step in spacing_mm]
    i, j, k = (slice(max(0, a - by), min(n, b + by)) for (a, b), by, n in zip(spans, grown, shape))
    return i, j, k


def load_locator(folder: Path, n_channels: int) -> Locator | None:
    """Read the locator of a model folder whose checksums were checked; None where there is none.

    Raises:
        CheckpointError: MODEL_DAMAGED.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / FILES[0]).exists():
        return None
    try:
        tree = read_json(folder / FILES[0])
        network = build_network(n_channels, tree["shape"])
        network.load_state_dict(load_file(folder / FILES[1]))
        i, j, k = tree["spacing_mm"]
        numbers = {name: float(tree[name]) for name in ("threshold", "margin_mm", "recall")}
    except (DataError, SafetensorError, RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the locator does not fit its description",
            hint="copy the model folder again",
            code="MODEL_DAMAGED",
        ) from error
    sha256 = sha256_of([sha256_of_file(folder / name) for name in FILES])
    return Locator(network.eval(), (i, j, k), **numbers, sha256=sha256)
