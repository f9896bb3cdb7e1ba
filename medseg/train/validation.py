"""Score a network on whole held-out cases while it trains, on their preprocessed grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.core.volume import IGNORED
from medseg.data.plan import Plan
from medseg.data.store import StoredCase
from medseg.inference.network import small_window
from medseg.inference.predict import choose_window_batch, predict_logits
from medseg.train.distributed import sum_over_ranks


def make_validation(
    cases: Sequence[StoredCase],
    plan: Plan,
    names: Sequence[str],
    *,
    count: int,
    overlap: float,
    regions: Sequence[Sequence[int]] = (),
    share: tuple[int, int] = (0, 1),
    look: Callable[[StoredCase, torch.Tensor], None] | None = None,
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return a function that scores a network on `count` of the cases, or None for none.

    The scores are Dice over all voxels of the chosen cases together (nnU-Net's pseudo Dice): cheap, and
    defined also where a case lacks a label. The final evaluation is per case and on the scan's grid.

    Args:
        cases: Held-out cases; the chosen ones are spread evenly over them.
        plan: Patch and dimensions.
        names: Of the foreground classes, in order, or of the regions.
        count: How many cases to score.
        overlap: Of neighbouring windows.
        regions: The classes that each output covers, where outputs are overlapping regions.
        share: (rank, world): ranks share the cases and all get the scores of all.
        look: Gets the first case and its (outputs, I, J, K) logits, on the rank that has it.
    """
    count = min(count, len(cases))
    if not count:
        return None
    chosen = [cases[index] for index in np.linspace(0, len(cases) - 1, count).round().astype(int)]

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        batch = choose_window_batch(
            network, chosen[0].image.shape[0], plan.patch, plan.dims, small_window(plan)
        )
        overlaps = np.zeros((2, len(names)))
        for case in chosen[share[0] :: share[1]]:
            image = torch.from_numpy(np.asarray(case.image[:]).astype(np.float32)).to(device)
            logits = predict_logits(
                [network], image, plan.patch, dims=plan.dims, overlap=overlap, window_batch=batch
            )
            if look is not None and case is chosen[0]:
                look(case, logits)
            reference = np.asarray(case.label[:])
            if regions:
                overlaps += count_region_overlaps((logits > 0).cpu().numpy(), reference, regions)
            else:
                overlaps += count_overlaps(logits.argmax(0).cpu().numpy(), reference, len(names))
        return summarise_overlaps(sum_over_ranks(torch.from_numpy(overlaps)).numpy(), names)

    return validate


def count_overlaps(predicted: NDArray[Any], reference: NDArray[Any], n_labels: int) -> NDArray[np.float64]:
    """Return (2, labels): sizes of the intersections, and sums of both sizes; ignored voxels are left out."""
    length = n_labels + 1
    counts = reference != IGNORED
    predicted, reference = predicted[counts], reference[counts]
    both = np.bincount(predicted[predicted == reference], minlength=length)
    sizes = np.bincount(predicted, minlength=length) + np.bincount(reference, minlength=length)
    return np.stack([both[1:], sizes[1:]]).astype(float)


def count_region_overlaps(
    predicted_RIJK: NDArray[np.bool_], reference: NDArray[Any], regions: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Return (2, regions) as `count_overlaps` does, of masks that may overlap."""
    counts = reference != IGNORED
    columns = []
    for mask, classes in zip(predicted_RIJK, regions, strict=True):
        predicted, true = mask[counts], np.isin(reference[counts], classes)
        columns.append([np.count_nonzero(predicted & true), predicted.sum() + true.sum()])
    return np.array(columns, float).T


def summarise_overlaps(overlaps: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """Return "dice" (mean over the labels that occur; 0 where none does) and "dice_<name>" of each."""
    present = overlaps[1] > 0
    dice = 2 * overlaps[0] / np.maximum(overlaps[1], 1)
    scores = {f"dice_{name}": float(value) for name, value, has in zip(names, dice, present) if has}
    return {"dice": float(dice[present].mean()) if present.any() else 0.0, **scores}
