"""Make docs/review.png: the review page of phantoms whose masks are wrong on purpose.

    python docs/review_picture.py [OUT.png]

Needs Chromium alone: the page is a file, and shows its worst case by itself. No patient is in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.volume import Labels
from medseg.data.phantom import KINDS
from medseg.io import read_labels, write_labels
from medseg.workflows.review import Sources, build

CASES = 12
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,900",
    "--virtual-time-budget=4000",
]  # fmt: skip


def spoil(labels: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return a mask as a network might have made it; one is far too large, one lacks its lesion."""
    rng = np.random.default_rng(number)
    grown = ndimage.binary_dilation(labels > 0, iterations=3 if number == 5 else 1)
    noise = ndimage.gaussian_filter(rng.normal(size=labels.shape), 1.5) > 0.05
    found = np.where(grown & (labels == 0) & (noise | (number == 5)), 1, labels)
    lesion = ndimage.binary_dilation(labels == 2) & ((labels == 2) & ~noise | noise & (labels == 1))
    found = np.where((labels == 2) & noise, 1, np.where(lesion, 2, found))
    return np.where(found == 2, 1, found) if number == 3 else found


def make_page(folder: Path) -> Path:
    """Write phantoms, masks, an evaluation and its page below a folder."""
    KINDS["ct"](folder / "cohort", CASES, 0)
    references, masks = folder / "cohort" / "labelsTr", folder / "masks"
    for number, path in enumerate(sorted(references.iterdir())):
        labels = read_labels(path)
        found = spoil(labels.array.astype(np.uint8), number).astype(np.uint8)
        write_labels(masks / path.name, Labels(found, labels.geometry), path)
    command = [sys.executable, "-m", "medseg", "evaluate", references, masks, "-o", folder / "evaluation"]
    subprocess.run([*command, "--quiet"], check=True)
    sources = Sources(folder / "evaluation", folder / "cohort", references, masks)
    return build(sources, folder / "review.html")


def main() -> None:
    """Save the picture to the file named on the command line."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("review.png"))
    with tempfile.TemporaryDirectory() as folder:
        page = make_page(Path(folder))
        subprocess.run([*CHROMIUM, f"--screenshot={out.resolve()}", page.as_uri()], check=True, cwd=folder)


if __name__ == "__main__":
    main()
