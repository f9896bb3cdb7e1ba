"""Soft-tissue sarcoma in FDG-PET: small lesions in a large, anisotropic field.

Data: IBSI / TCIA Soft-tissue-Sarcoma, CC BY 3.0, Vallieres et al. 2015; a folder per patient with
PET_image (SUV) and PET_mask, 35 patients, grids of about 4.7 x 4.7 x 3.3 mm that differ; or as TCIA has them,
DICOM studies with an RTSTRUCT a series.
"""

from medseg.config import Augment, Builder, Channel, Config, Data, Grid, Infer, SeriesRule, Train

CONFIG = Config(
    name="sarcoma_pet",
    summary="Gross tumour volume of soft-tissue sarcoma in FDG-PET (SUV).",
    licence="Trained on Soft-tissue-Sarcoma (TCIA / IBSI, CC BY 3.0, Vallieres et al. 2015).",
    expected="see docs/results.md: seven patients are held out, so one figure says little",
    data=Data(
        channels={
            "pet": Channel(
                normalize="pet",  # SUV: 0 means something
                pattern="PET_image*",
                series=SeriesRule(modality="PT", suv=True),
            )
        },
        labels={1: "tumour"},
        label_pattern="*PET_mask*",
        rois={"GTV_Mass*": 1},  # not the oedema around it, which some structure sets hold too
        codes={1: "SCT:108369006:Neoplasm"},
        code_categories={1: "SCT:49755003:Morphologically Abnormal Structure"},
    ),
    grid=Grid(
        spacing_mm=(4.6875, 4.6875, 3.27),  # the most common grid of the cohort
        patch=(32, 32, 48),
        batch_size=4,
        mirror_axes=(0,),  # a limb's tumour may be on either side; back and front differ
    ),
    model=Builder(name="unet", options={"features": [12, 24, 48, 96]}),
    # Tumours fill a small part of the field; more of the patches are centred on them.
    train=Train(
        epochs=20, iterations_per_epoch=30, learning_rate=2e-3, foreground_share=0.5, validate_every=5
    ),
    augment=Augment(rotate_p=0.4, rotate_degrees=20, scale_p=0.4),
    infer=Infer(
        overlap=0.5,
        # A tumour under a ml is beyond what 4.7 mm voxels show; specks are noise.
        postprocess=(Builder(name="remove_small_components", options={"min_volume_mm3": 1000.0}),),
    ),
)
