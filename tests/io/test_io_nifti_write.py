from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import io
from medseg.core.errors import DataError, FormatError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from tests.bad_nifti import AFFINE, SHAPE, make_image, make_label, write_image

GRID = Geometry(SHAPE, AFFINE)
COPIED = (
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def header_of(path: Path) -> nib.Nifti1Header:
    return nib.load(path).header


ROTATIONS = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any rotation, axis order, flips, spacing and origin."""
    from scipy.spatial.transform import Rotation

    linear = Rotation.from_quat(draw(ROTATIONS)).as_matrix() if draw(st.booleans()) else np.eye(3)
    order = draw(st.sampled_from(list(itertools.permutations(range(3)))))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 9)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = linear[:, order] * signs * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


@settings(max_examples=60, deadline=None)
@given(
    affine=affines(),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "i4", "i8"]),
    top=st.integers(0, 127),
    codes=st.sampled_from([(1, 1), (0, 1), (2, 0), (1, 4), (0, 3)]),
    version=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    unit=st.sampled_from(["mm", "unknown"]),
)
def test_labels_come_back_on_the_grid_and_with_the_header_of_their_image(
    affine: np.ndarray, dtype: str, top: int, codes: tuple[int, int], version: type, unit: str
) -> None:
    image = version(make_image(), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(unit, "sec")
    values = np.minimum(make_label(), top).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        like, path = Path(folder) / "image.nii.gz", Path(folder) / "mask.nii.gz"
        nib.save(image, like)
        io.write_labels(path, Labels(values, io.read_geometry(like)), like)
        written, original, back = header_of(path), header_of(like), io.read_labels(path)
        assert type(nib.load(path)) is version
        for name in COPIED:
            assert np.array_equal(written[name], original[name]), name
        assert np.array_equal(written["pixdim"][:4], original["pixdim"][:4])
        assert np.array_equal(back.array, values)
        assert np.array_equal(back.geometry.affine, io.read_geometry(like).affine)


@settings(max_examples=60, deadline=None)
@given(affine=affines())
def test_grid_survives_without_an_image_to_copy_from(affine: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii.gz"
        io.write_labels(path, Labels(make_label(), Geometry(SHAPE, affine)))
        assert np.allclose(io.read_geometry(path).affine, affine, atol=1e-4)
        assert (header_of(path)["qform_code"], header_of(path)["sform_code"]) == (1, 1)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 1, "u1"), (0, 255, "u1"), (0, 256, "u2"), (0, 65536, "u4"), (-1, 127, "i1"), (-1, 128, "i2")],
)
def test_labels_take_the_smallest_type_that_holds_them(
    low: int, high: int, dtype: str, tmp_path: Path
) -> None:
    array = make_label().astype(np.int64)
    array[0, 0, 0], array[1, 1, 1] = low, high
    io.write_labels(tmp_path / "a.nii.gz", Labels(array, GRID))
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == dtype
    assert np.array_equal(io.read_labels(tmp_path / "a.nii.gz").array, array)


def test_free_text_of_the_image_is_not_copied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_image(), AFFINE)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = b"Jane Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "image.nii.gz")
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), GRID), tmp_path / "image.nii.gz")
    import gzip

    assert b"Jane" not in gzip.decompress((tmp_path / "a.nii.gz").read_bytes())


def test_same_input_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), GRID))
    io.write_labels(tmp_path / "b.nii.gz", Labels(make_label(), GRID))
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "b.nii.gz").read_bytes()
    assert data[3:8] == bytes(5)  # no file name flag, no time (RFC 1952)


def test_nibabel_reads_what_was_written(tmp_path: Path) -> None:
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), GRID))
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), make_label())
    assert np.array_equal(image.affine, AFFINE)


def test_header_in_microns_keeps_its_microns(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_image(), np.diag([1000, 1000, 1000, 1]) @ AFFINE)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "image.nii.gz")
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), GRID), tmp_path / "image.nii.gz")
    assert np.array_equal(header_of(tmp_path / "a.nii.gz")["srow_y"], [0, 1500, 0, 7000])


def test_labels_on_another_grid_than_their_image_are_refused(tmp_path: Path) -> None:
    like = write_image(tmp_path / "image.nii.gz")
    shifted = Geometry.of_spacing(SHAPE, (1, 1.5, 3), (-5, 7, -10))
    with pytest.raises(GeometryError) as caught:
        io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), shifted), like)
    assert caught.value.code == "GRID_DIFFERS"
    assert not (tmp_path / "a.nii.gz").exists()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")
    with pytest.raises(DataError):
        io.write_volume(path, Volume(make_image()[None], Geometry(SHAPE, AFFINE + np.eye(4, k=1) * 0.5)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == b"old"


def test_uncompressed_nifti_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        io.write_labels(tmp_path / "a.nii", Labels(make_label(), GRID))
    assert caught.value.code == "NII_SUFFIX"


def test_image_of_two_channels_comes_back(tmp_path: Path) -> None:
    array = np.stack([make_image(), -make_image()]).astype(np.float64)
    io.write_volume(tmp_path / "a.nii.gz", Volume(array, GRID))
    back = io.read_volume(tmp_path / "a.nii.gz")
    assert back.array.dtype == np.float32
    assert np.array_equal(back.array, array)


def test_long_axis_makes_nifti_2(tmp_path: Path) -> None:
    grid = Geometry.of_spacing((40000, 1, 1), (1, 1, 1))
    io.write_labels(tmp_path / "a.nii.gz", Labels(np.ones((40000, 1, 1), int), grid))
    assert io.read_labels(tmp_path / "a.nii.gz").array.sum() == 40000


def test_2d_image_gives_a_mask_of_one_slice(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(make_image()[:, :, 0], AFFINE), tmp_path / "image.nii.gz")
    grid = io.read_geometry(tmp_path / "image.nii.gz")
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label()[:, :, :1], grid), tmp_path / "image.nii.gz")
    assert io.read_labels(tmp_path / "a.nii.gz").array.shape == (12, 10, 1)


def test_probabilities_are_16_bit_steps_of_one(tmp_path: Path) -> None:
    like = write_image(tmp_path / "image.nii.gz")
    foreground = np.random.default_rng(0).random(SHAPE, np.float32)
    foreground[0, 0, 0] = 1
    probabilities = np.stack([1 - foreground, foreground], axis=-1)
    io.write_probabilities(tmp_path / "a.nii.gz", probabilities, like)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.uint16
    assert image.dataobj.slope == pytest.approx(1 / 65535)
    assert image.shape == (*SHAPE, 2)
    assert np.abs(image.get_fdata() - probabilities).max() <= 0.51 / 65535
    assert np.abs(np.moveaxis(io.read_volume(tmp_path / "a.nii.gz").array, 0, 3) - probabilities).max() < 1e-5


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probabilities_outside_zero_to_one_are_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        io.write_probabilities(tmp_path / "a.nii.gz", np.full((*SHAPE, 1), value), GRID)
    assert caught.value.code == "PROBABILITY_RANGE"
