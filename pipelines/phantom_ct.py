"""Organ and lesions in synthetic CT scans: the task of `make demo`.

Data: `medseg phantom`, no patient, CC0. Intensity alone cannot solve it: an unlabelled double of the organ
with lesions of its own lies on the other side.
"""

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Split, Train

CONFIG = Config(
    name="phantom_ct",
    summary="Organ and lesions in synthetic CT-like scans.",
    licence="Synthetic data, CC0.",
    expected="mean Dice >= 0.90 on held-out cases in a few minutes on two cores",
    data=Data(
        channels={"ct": Channel(normalize="ct")},
        labels={1: "organ", 2: "lesion"},
    ),
    split=Split(folds=4),
    # No mirroring: left and right is all that tells the organ from its double.
    grid=Grid(patch=(56, 48, 24), batch_size=2, mirror_axes=()),
    model=Builder(name="unet", options={"features": [12, 24, 48, 64], "deep_supervision": False}),
    augment=Augment(rotate_degrees=10, scale_range=(0.9, 1.1)),
    train=Train(epochs=10, iterations_per_epoch=30, learning_rate=3e-3, validate_every=5, validate_cases=3),
)
