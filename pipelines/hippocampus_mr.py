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
        batch_size=2,  # many small steps; a batch of one meets torch's slow convolution
        # No mirroring: front and back are the labels; it cost 2.5 Dice points at equal budget.
        mirror_axes=(),
    ),
    # Thin at full resolution, where most voxels are, and small: 160 crops do not feed more.
    model=Builder(name="light_unet", options={"features": [16, 32, 64, 128]}),
    # Stronger than the defaults: with 160 small crops the network overfits before it is done.
    augment=Augment(
        rotate_p=0.7,
        rotate_degrees=20,
        scale_p=0.7,
        scale_range=(0.85, 1.2),
        scale_per_axis=True,
        elastic_p=0.5,
        elastic_cells=4,
        elastic_strength=(0.0, 0.25),
    ),
    train=Train(
        epochs=36,
        iterations_per_epoch=100,
        optimizer="muon",  # no difference to AdamW shown (the ablation in docs/benchmarks.md); kept
        learning_rate=2e-3,
        foreground_share=0.5,
        validate_every=4,
    ),
    infer=Infer(overlap=0.5),
)
