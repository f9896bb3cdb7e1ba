"""Anterior and posterior hippocampus in T1 MR crops (MSD Task04).

Data: Medical Segmentation Decathlon, Task04_Hippocampus, CC-BY-SA 4.0, Simpson et al. 2019,
arXiv:1902.09063. Crops of about 35 x 50 x 36 voxels at 1 mm.
"""

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Infer, SeriesRule, Train

CONFIG = Config(
    name="hippocampus_mr",
    summary="Anterior and posterior hippocampus in cropped T1-weighted MR images.",
    licence="Trained on MSD Task04_Hippocampus (CC-BY-SA 4.0, Simpson et al. 2019, arXiv:1902.09063).",
    expected="mean Dice >= 0.86 on held-out cases in 30 CPU-minutes",
    data=Data(
        # MR has no absolute scale; of a DICOM study it is the MR series, if there is one only.
        channels={"t1": Channel(normalize="zscore", series=SeriesRule(modality="MR"))},
        labels={1: "anterior", 2: "posterior"},
        codes=dict.fromkeys((1, 2), "SCT:5366008:Hippocampus"),
    ),
    grid=Grid(
        spacing_mm=(1.0, 1.0, 1.0),
        patch=(32, 48, 32),  # nearly the whole crop, and every edge can be halved three times
        batch_size=4,
        # No mirroring: front and back are the labels; it cost 2.5 Dice points at equal budget.
        mirror_axes=(),
    ),
    # The first stage at half resolution makes it fast on a CPU: 0.2 CPU-s a sample.
    model=Builder(name="strided_unet", options={"features": [32, 64, 128, 256], "residual_units": 2}),
    # Stronger than the defaults: with 160 small crops the network overfits before it is done.
    augment=Augment(rotate_p=0.5, rotate_degrees=20, scale_p=0.5, scale_range=(0.85, 1.2)),
    train=Train(epochs=36, iterations_per_epoch=50, learning_rate=3e-3, ema_decay=0.99, validate_every=4),
    infer=Infer(overlap=0.5),
)
