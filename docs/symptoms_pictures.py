"""Draw the pictures of symptoms.md: what a fault looks like, and the same phantom with the option that helps.

    python docs/symptoms_pictures.py OUT          # docs/symptoms in the repository; about a CPU-minute

Synthetic data only. Losses, networks, resampling and augmentation are those that a run uses; the
trainings are some hundred steps of a tiny 2D network, seeded, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from medseg.core.select import select
from medseg.data.augment import apply_intensity, draw_intensity
from medseg.data.resample import argmax_resampled, resample_image
from medseg.data.settings import Augment
from medseg.losses import LOSSES
from medseg.models import MODELS, Grid

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
REFERENCE, PREDICTED, INK, PAPER = "#33d6ff", "#ff9e2c", "#e8e8e8", "#101214"
SIZE = 64
LINEAR = (1, 1, 0)
NOTHING = Augment(**{name: 0.0 for name in Augment.model_fields if name.endswith("_p")})
TASK_GRID = Grid(
    dims=2,
    patch=(SIZE, SIZE),
    spacing_mm=(1.0, 1.0),
    strides=((1, 1), (2, 2), (2, 2)),
    kernels=((3, 3),) * 3,
    features=(8, 16, 32),
)


def disc(row: float, column: float, radius: float, size: int = SIZE) -> Mask:
    """Return a (size, size) disc."""
    rows, columns = np.mgrid[:size, :size]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def measure_dice(reference: Mask, predicted: Mask) -> float:
    """Return Dice of two masks that are not both empty."""
    return float(2 * (reference & predicted).sum() / (reference.sum() + predicted.sum()))


def draw(path: Path, panels: list[tuple[str, Image, Mask | None, Mask | None]]) -> None:
    """Save panels side by side: grey image, reference as a solid line, prediction as a dashed one."""
    figure = Figure(figsize=(3.1 * len(panels), 3.7), dpi=90, facecolor=PAPER)
    for number, (title, image, reference, predicted) in enumerate(panels):
        axes = figure.add_axes(((number + 0.02) / len(panels), 0.1, 0.96 / len(panels), 0.76))
        low, high = np.percentile(image, (1, 99.5))
        axes.imshow(image, cmap="gray", interpolation="nearest", vmin=low, vmax=high + 0.25 * (high - low))
        for mask, colour, style in ((reference, REFERENCE, "solid"), (predicted, PREDICTED, (0, (3, 1.5)))):
            if mask is not None and mask.any():
                fine = np.kron(mask, np.ones((4, 4)))  # the line follows the edges of pixels
                at = (np.arange(fine.shape[0]) - 1.5) / 4
                axes.contour(at, at, fine, levels=[0.5], colors=[colour], linewidths=1.6, linestyles=[style])
        axes.set_axis_off()
        axes.set_title(title, color=INK, fontsize=10)
    if any(reference is not None for _, _, reference, _ in panels):
        figure.text(0.02, 0.03, "solid blue: reference", color=REFERENCE, fontsize=9)
        figure.text(0.32, 0.03, "dashed orange: prediction", color=PREDICTED, fontsize=9)
    figure.savefig(path, facecolor=PAPER, metadata={"Software": None})


def draw_jagged(path: Path) -> None:
    """A smooth organ, predicted at 8 mm: labels enlarged, logits enlarged, and predicted at 4 mm."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    turned = 0.8 * rows + 0.6 * columns, 0.8 * columns - 0.6 * rows
    organ = (turned[0] / 25) ** 2 + (turned[1] / 15) ** 2 <= 1
    signed = np.asarray(distance_transform_edt(organ) - distance_transform_edt(~organ), np.float32)
    image = gaussian_filter(organ * 50.0, 1) + np.random.default_rng(0).normal(50, 8, organ.shape)
    image = np.clip(image, 0, 200).astype(np.float32)

    def restore(factor: int) -> tuple[Mask, Mask]:
        coarse = signed.reshape(SIZE // factor, factor, SIZE // factor, factor).mean((1, 3))
        logits = np.stack([-coarse, coarse])[..., None]
        smooth = argmax_resampled(logits, (SIZE, SIZE, 1), orders=LINEAR)[..., 0] == 1
        return np.kron(coarse > 0, np.ones((factor, factor), bool)), smooth

    (blocks, smooth), (_, fine) = restore(8), restore(4)
    panels = [
        ("8 mm, labels enlarged", blocks),
        ("8 mm, as medseg does it", smooth),
        ("grid.spacing_mm=[4,4,4]", fine),
    ]
    draw(path, [(f"{t}\nDice {measure_dice(organ, m):.3f}", image, organ, m) for t, m in panels])


def draw_small_objects(path: Path) -> None:
    """Lesions of 3 to 8 mm, as a network sees them on a coarse and on a fine grid."""
    spots = [(10, 14, 2.2), (18, 46, 1.5), (32, 26, 4.0), (40, 52, 2.2), (54, 12, 1.5), (53, 34, 2.5)]
    lesions = np.any([disc(*spot) for spot in spots], axis=0)
    image = gaussian_filter(lesions * 100.0, 0.5).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 5, image.shape).astype(np.float32)

    def see(factor: int) -> Mask:
        small = (SIZE // factor, SIZE // factor, 1)
        coarse = resample_image(image[None, ..., None], small, orders=LINEAR)
        logits = np.concatenate([40 - coarse, coarse - 40])  # a perfect reader of what is left
        return np.asarray(argmax_resampled(logits, (SIZE, SIZE, 1), orders=LINEAR)[..., 0] == 1)

    panels = [("grid.spacing_mm=[8,8,8]", see(8)), ("grid.spacing_mm=[1,1,1]", see(1))]
    draw(path, [(f"{t}\nDice {measure_dice(lesions, m):.2f}", image, lesions, m) for t, m in panels])


def train(
    make: Callable[[np.random.Generator], tuple[Image, Mask]],
    loss_name: str,
    steps: int,
    augment: Augment = NOTHING,
) -> Callable[[Image], Mask]:
    """Train a tiny U-Net and return it as a function of an image."""
    torch.manual_seed(0)
    network = select("model", MODELS, "unet", {"deep_supervision": False})(1, 2, TASK_GRID)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    loss_of = select("loss", LOSSES, loss_name)
    for step in range(steps):
        rng = np.random.default_rng([1, step])
        images, masks = zip(*[make(rng) for _ in range(4)], strict=True)
        changed = [
            apply_intensity(torch.from_numpy(image[None, ..., None].copy()), draw_intensity(rng, augment))[
                ..., 0
            ].numpy()
            for image in images
        ]
        loss = loss_of(
            network(torch.from_numpy(np.stack(changed))), torch.from_numpy(np.stack(masks).astype(np.int64))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()

    def predict(image: Image) -> Mask:
        with torch.inference_mode():
            return network(torch.from_numpy(image)[None, None]).argmax(1)[0].numpy() == 1

    return predict


def make_rare(rng: np.random.Generator) -> tuple[Image, Mask]:
    """Return a noisy image with one lesion in 0.5 % of its pixels, little brighter than what is around it."""
    lesion = disc(*rng.uniform(10, SIZE - 10, 2), 2.5)
    tissue = gaussian_filter(rng.normal(0, 1.6, (SIZE, SIZE)), 0.7)
    return (tissue + 2.6 * gaussian_filter(lesion * 1.0, 0.7)).astype(np.float32), lesion


def draw_imbalance(path: Path) -> None:
    """Cross-entropy is content with background everywhere; a loss with Dice in it is not."""
    image, lesion = make_rare(np.random.default_rng(12))
    panels = []
    for name in ("cross_entropy", "dice_focal"):
        mask = train(make_rare, name, 120)(image)
        panels.append((f"loss.name={name}\nDice {measure_dice(lesion, mask):.2f}", image, lesion, mask))
    draw(path, panels)


def make_scan(rng: np.random.Generator, noise: float = 0.15) -> tuple[Image, Mask]:
    """Return an organ and a brighter bowel beside it, seen by a scanner with its own noise."""
    row, column = rng.uniform(22, 42, 2)
    organ = disc(row, column, 10)
    bowel = disc((row + 28) % SIZE, (column + 20) % SIZE, 8) & ~organ
    image = gaussian_filter(1.0 * organ + 2.0 * bowel, 0.7) + rng.normal(0, noise, (SIZE, SIZE))
    return image.astype(np.float32), organ


def draw_gap(path: Path) -> None:
    """Trained on one scanner, shown a noisier one: without and with noise as an augmentation."""
    noisy = Augment(**{**NOTHING.model_dump(), "noise_p": 0.5, "noise_variance": (0.0, 1.0)})
    seen = make_scan(np.random.default_rng(99))
    other = make_scan(np.random.default_rng(7), noise=0.9)
    panels = []
    for name, augment in (("augment.noise_p=0", NOTHING), ("augment.noise_p=0.5", noisy)):
        predict = train(make_scan, "dice_focal", 120, augment)
        home, away = measure_dice(seen[1], predict(seen[0])), measure_dice(other[1], predict(other[0]))
        title = f"{name}\nDice {home:.2f} where trained, {away:.2f} here"
        panels.append((title, other[0], other[1], predict(other[0])))
    draw(path, panels)


def draw_checkerboard(path: Path) -> None:
    """A smooth image through one untrained decoder step: transposed convolution, and interpolation."""
    torch.manual_seed(3)
    rows, columns = np.mgrid[:24, :24] / 23
    smooth = torch.from_numpy(np.stack([rows + columns, 1 - rows * columns]).astype(np.float32))[None]
    transposed = torch.nn.ConvTranspose2d(2, 1, 2, 2)
    linear = torch.nn.Sequential(
        torch.nn.Upsample(scale_factor=2, mode="bilinear"), torch.nn.Conv2d(2, 1, 3, padding=1)
    )
    with torch.inference_mode():
        maps = [(step(smooth)[0, 0, 2:-2, 2:-2]).numpy() for step in (transposed, linear)]
    titles = ("upsampling: transposed", "model.options.upsampling=linear")
    draw(path, [(title, shown, None, None) for title, shown in zip(titles, maps, strict=True)])


PICTURES = {
    "jagged_edges": draw_jagged,
    "small_objects": draw_small_objects,
    "class_imbalance": draw_imbalance,
    "checkerboard": draw_checkerboard,
    "generalization_gap": draw_gap,
}


def main() -> None:
    """Draw all pictures into the folder named on the command line, or those that are named after it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or PICTURES:
        path = arguments.out / f"{name}.png"
        PICTURES[name](path)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
