"""Cell nuclei in fluorescence microscopy, as one foreground class (2D).

Data: 2018 Data Science Bowl (BBBC038), fluorescence images of 256 x 256, CC0; masks hold an id per
nucleus, which `label_map` turns into one class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Infer, Train


class RandGlow:
    """Add a broad blob of out-of-focus light, as some plates show it, to a dictionary's images.

    A few percent of the images have one; without it the network takes bright haze for nuclei.

    Args:
        keys: Entries of shape (C, I, J, 1) to change.
        prob: How often.
        strength: Smallest and largest height, in standard deviations of the image.
    """

    def __init__(self, keys: Sequence[str], prob: float, strength: tuple[float, float]) -> None:
        self.keys, self.prob, self.strength = keys, prob, strength
        self.rng = np.random.default_rng(0)

    def set_random_state(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        import torch  # not at the top: the command line reads pipelines for their names and settings

        if self.rng.random() >= self.prob:
            return data
        rows, columns = data[self.keys[0]].shape[1:3]
        at = self.rng.uniform(-0.2, 1.2, 2) * (rows, columns)
        width = self.rng.uniform(0.2, 0.6) * max(rows, columns)
        i, j = np.ogrid[:rows, :columns]
        blob = np.exp(-((i - at[0]) ** 2 + (j - at[1]) ** 2) / (2 * width**2))
        glow = (self.rng.uniform(*self.strength) * blob[None, :, :, None]).astype(np.float32)
        return data | {key: data[key] + torch.from_numpy(glow) for key in self.keys}


CONFIG = Config(
    name="nuclei_fluorescence",
    summary="Foreground of cell nuclei in fluorescence microscopy images.",
    licence="Trained on DSB 2018 (BBBC038), fluorescence subset, CC0.",
    expected="foreground Dice >= 0.90 on held-out images in 20 CPU-minutes",
    data=Data(
        channels={"fluorescence": Channel(normalize="zscore")},  # exposure differs between images
        labels={1: "nucleus"},
        label_map={"nonzero": 1},
    ),
    grid=Grid(
        dims=2,
        spacing_mm=(1.0, 1.0, 1.0),  # pixels: the images do not say how large they are
        patch=(128, 128, 1),
        batch_size=8,
        mirror_axes=(0, 1),  # a dish has no up or left
    ),
    model=Builder(name="unet", options={"features": [16, 32, 64, 96, 128, 128]}),
    augment=Augment(
        rotate_p=0.3,
        scale_p=0.3,
        brightness_range=(0.6, 1.5),
        gamma_p=0.5,
        extra=(
            Builder(
                name="medseg_pipelines.nuclei_fluorescence:RandGlow",
                options={"prob": 0.3, "strength": [0.5, 4.0]},
            ),
        ),
    ),
    train=Train(epochs=26, iterations_per_epoch=40, learning_rate=2e-3, validate_every=5),
    infer=Infer(overlap=0.25),
)
