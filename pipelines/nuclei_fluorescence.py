"""Cell nuclei in fluorescence microscopy, as one foreground class (2D).

Data: 2018 Data Science Bowl (BBBC038), fluorescence images of 256 x 256, CC0; masks hold an id per
nucleus, which `label_map` turns into one class.
"""

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Infer, Train

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
    augment=Augment(rotate_p=0.3, scale_p=0.3, brightness_range=(0.6, 1.5), gamma_p=0.5),
    train=Train(epochs=20, iterations_per_epoch=40, learning_rate=2e-3, validate_every=5),
    infer=Infer(overlap=0.25),
)
