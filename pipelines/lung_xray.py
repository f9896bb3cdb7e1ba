"""Lung fields in chest radiographs (2D), from a folder of images and one of masks.

Data: any such pair of folders, for example Montgomery County and Shenzhen (US National Library of
Medicine). No such data was at hand: the pipeline is tested on `medseg phantom --kind xray` alone, and its
score on patients is unknown.
"""

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Infer, Train

CONFIG = Config(
    name="lung_xray",
    summary="Lung fields in frontal chest radiographs.",
    licence="No patient data was used; take the licence of what you train on.",
    expected="unknown on patients; tested on phantoms only",
    data=Data(
        channels={"xray": Channel(normalize="zscore")},
        labels={1: "lung"},
        label_map={"nonzero": 1},  # masks are 0 and 255, or one value a lung
    ),
    # No mirroring: the heart is on the left, and situs inversus is not to be learnt as normal.
    grid=Grid(dims=2, spacing_mm=(1.0, 1.0, 1.0), mirror_axes=()),
    model=Builder(name="unet", options={"features": [16, 32, 64, 96, 128, 128]}),
    augment=Augment(rotate_degrees=10, scale_range=(0.85, 1.2), brightness_range=(0.7, 1.3)),
    train=Train(epochs=20, iterations_per_epoch=40, learning_rate=2e-3, validate_every=5),
    infer=Infer(
        overlap=0.25,
        postprocess=(Builder(name="fill_holes"),),  # ribs and vessels leave holes, lungs have none
    ),
)
