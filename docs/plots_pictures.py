"""Draw the pictures of compare.md and review.md: the figures of medseg, of made-up scores.

    python docs/plots_pictures.py OUT          # docs in the repository; some seconds

Synthetic numbers only, seeded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from medseg.tracking import plots
from medseg.tracking.plots import Picture

LABELS = (("1", "organ", 0.90, 0.03, 40.0), ("2", "lesion", 0.70, 0.12, 2.0))  # Dice, its sd, volume in ml


def make_rows() -> list[dict[str, Any]]:
    """Return scores of forty cases in five folds."""
    rng, rows = np.random.default_rng(0), []
    for case in range(40):
        for label, name, dice, sd, volume_ml in LABELS:
            size = float(volume_ml * np.exp(rng.normal(0, 0.6)))
            rows.append(
                {
                    "id": f"phantom_{case:03}",
                    "label": label,
                    "name": name,
                    "fold": case % 5,
                    "dice": float(np.clip(dice + sd * (rng.normal() + np.log(size / volume_ml)), 0, 1)),
                    "volume_reference_ml": size,
                    "volume_predicted_ml": size * float(rng.normal(1.03, 0.08)),
                }
            )
    return rows


def make_history(seed: int) -> list[dict[str, Any]]:
    """Return sixty epochs, validated every fifth."""
    rng = np.random.default_rng(seed)
    return [
        {
            "epoch": epoch,
            "train/loss": float(np.exp(-epoch / 15) + 0.2 + rng.normal(0, 0.02)),
            "val/dice": None if epoch % 5 else float(0.88 - 0.5 * np.exp(-epoch / (10 + seed))),
        }
        for epoch in range(1, 61)
    ]


def draw_all() -> dict[str, Picture]:
    """Return each figure by its name."""
    rows, rng = make_rows(), np.random.default_rng(1)
    gains = {name: rng.normal(mean, 0.02, 40).tolist() for name, mean in (("organ", 0.012), ("lesion", 0.0))}
    bins = [
        {"confidence": c, "accuracy": c - 0.12 * np.sin(np.pi * c), "n": 10 ** (2 + 4 * c)}
        for c in np.linspace(0.53, 0.97, 7).tolist()
    ]
    errors = {name: 2.02 * np.std(values, ddof=1) / np.sqrt(40) for name, values in gains.items()}
    intervals = {name: (np.mean(v) - errors[name], np.mean(v) + errors[name]) for name, v in gains.items()}
    return {
        "compare": plots.draw_paired(gains, intervals, "dice", ("no_augment", "default")),
        "distributions": plots.draw_distributions(rows, "dice"),
        "bland_altman": plots.draw_bland_altman(rows),
        "reliability": plots.draw_reliability(bins),
        "size": plots.draw_size(rows, "dice"),
        "curves": plots.draw_curves({str(fold): make_history(fold) for fold in range(3)}),
        "folds": plots.draw_folds(rows),
        "confusion": plots.draw_confusion(
            [[9_900_000, 9_000, 400], [12_000, 230_000, 900], [700, 1_500, 9_000]],
            ["background", "organ", "lesion"],
        ),
    }


def main() -> None:
    """Write the PNG of every figure, or of those that are named, into the folder named first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = draw_all()
    for name in arguments.names or pictures:
        path = arguments.out / f"{name}.png"
        path.write_bytes(pictures[name].png)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
