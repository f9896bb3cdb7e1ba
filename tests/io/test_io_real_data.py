from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg import io


def test_all_48_orientations_hold_the_same_brain(medseg_data: Path) -> None:
    from medseg.core.volume import to_canonical

    brains = set()
    for path in (medseg_data / "nifti_space").glob("*.nii.gz"):
        volume = io.read_volume(path)
        assert volume.geometry.orientation == path.name[:3]
        brains.add(to_canonical(volume.array, volume.geometry)[0].tobytes())
    assert len(brains) == 1


def test_every_pet_and_its_mask_agree_with_nibabel(medseg_data: Path) -> None:
    paths = sorted((medseg_data / "sts_pet").glob("*/*.nii.gz"))
    assert len(paths) == 70
    for path in paths:
        volume, image = io.read_volume(path), nib.load(path)
        assert np.array_equal(volume.array[0], np.asarray(image.dataobj))
        assert np.allclose(volume.geometry.affine, image.affine, atol=1e-3)


def test_200_hippocampi_are_read_in_a_second_of_cpu(medseg_data: Path) -> None:
    paths = sorted((medseg_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))
    start = time.process_time()
    for path in paths:
        io.read_volume(path)
    assert len(paths) == 200
    assert time.process_time() - start < 1.0  # 0.2 s on one 2024 server core


def test_hippocampus_labels_are_0_1_2_on_the_grid_of_their_image(medseg_data: Path) -> None:
    for path in sorted((medseg_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:20]:
        labels = io.read_labels(path)
        assert set(np.unique(labels.array)) == {0, 1, 2}
        assert not labels.geometry.differs_from(io.read_geometry(path.parents[1] / "imagesTr" / path.name))


def test_nuclei_pictures_and_16_bit_masks_are_read(medseg_data: Path) -> None:
    for path in sorted((medseg_data / "nuclei" / "instances").glob("*.png"))[:20]:
        labels = io.read_labels(path)
        assert labels.array.dtype == np.uint16
        assert labels.geometry.shape == io.read_geometry(path.parents[1] / "images" / path.name).shape
