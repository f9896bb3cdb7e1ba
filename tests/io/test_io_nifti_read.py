from __future__ import annotations

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import io
from medseg.core.errors import ConfigError, DataError
from medseg.io import nifti
from tests.bad_nifti import (
    AFFINE,
    BAD_IMAGES,
    BAD_LABELS,
    IO_CODES,
    SHAPE,
    make_bytes,
    make_image,
    make_label,
    patch,
    write_image,
    write_nifti,
)

NAN, INF = float("nan"), float("inf")


def code_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        io.read_volume(path)
    assert caught.value.hint
    assert path.name not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("name", IO_CODES)
def test_bad_file_is_refused_with_its_code(name: str, tmp_path: Path) -> None:
    assert code_of(BAD_IMAGES[name](tmp_path / "a.nii.gz")) == IO_CODES[name]


@pytest.mark.parametrize("name", sorted(BAD_LABELS))
def test_label_that_is_wrong_only_for_its_data_set_is_read(name: str, tmp_path: Path) -> None:
    assert io.read_labels(BAD_LABELS[name](tmp_path / "a.nii.gz")).array.shape == SHAPE


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dim": [3, -12, 10, 8, 1, 1, 1, 1]}, "NII_HEADER"),
        ({"dim": [3, 12, 0, 8, 1, 1, 1, 1]}, "NII_HEADER"),
        ({"dim": [0, 12, 10, 8, 1, 1, 1, 1]}, "NII_HEADER"),
        ({"dim": [9, 12, 10, 8, 1, 1, 1, 1]}, "NII_HEADER"),
        ({"dim": [1, 960, 1, 1, 1, 1, 1, 1]}, "NII_DIMS"),
        ({"dim": [5, 12, 10, 2, 2, 2, 1, 1]}, "NII_DIMS"),
        ({"dim": [6, 12, 10, 4, 1, 1, 2, 1]}, "NII_DIMS"),
        ({"dim": [3, 12, 10, 9, 1, 1, 1, 1]}, "NII_TRUNCATED"),
        ({"dim": [3, 12, 10, 7, 1, 1, 1, 1]}, "NII_TRAILING"),
        ({"dim": [3, 32767, 32767, 1, 1, 1, 1, 1]}, "NII_TRUNCATED"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "NII_TOO_LARGE"),
        ({"bitpix": 8}, "NII_HEADER"),
        ({"datatype": 32, "bitpix": 64}, "NII_COMPLEX"),
        ({"datatype": 2304, "bitpix": 32}, "NII_COLOUR"),
        ({"datatype": 1, "bitpix": 1}, "NII_DATATYPE"),
        ({"datatype": 999}, "NII_DATATYPE"),
        ({"vox_offset": 0}, "NII_OFFSET"),
        ({"vox_offset": NAN}, "NII_OFFSET"),
        ({"vox_offset": -352}, "NII_OFFSET"),
        ({"vox_offset": 1e9}, "NII_TRUNCATED"),
        ({"scl_slope": INF}, "NII_SCALING"),
        ({"scl_slope": 2, "scl_inter": NAN}, "NII_SCALING"),
        ({"pixdim": [1, 0, 1.5, 3, 1, 1, 1, 1]}, "NII_PIXDIM"),
        ({"pixdim": [1, NAN, 1.5, 3, 1, 1, 1, 1]}, "NII_PIXDIM"),
        ({"pixdim": [1, 1, -1.5, 3, 1, 1, 1, 1]}, "NII_PIXDIM"),
        ({"srow_x": [NAN, 0, 0, 0]}, "NII_AFFINE"),
        ({"srow_x": [0, 0, 0, 0]}, "NII_AFFINE"),
        ({"qform_code": 1, "quatern_b": 2}, "NII_AFFINE"),
        ({"qform_code": 1, "quatern_b": NAN}, "NII_AFFINE"),
        ({"srow_x": [1, 0.01, 0, -5]}, "NII_SHEARED"),
        ({"qform_code": 0, "sform_code": 0}, "NII_NO_ORIENTATION"),
        ({"qform_code": 1, "qoffset_x": -4.85}, "NII_FORMS_DISAGREE"),
        ({"xyzt_units": 7}, "NII_HEADER"),
        ({"magic": b"ni1"}, "NII_PAIR"),
        ({"magic": b""}, "NII_NOT_NIFTI"),
    ],
)
def test_damaged_header_is_refused(fields: dict[str, object], code: str, tmp_path: Path) -> None:
    fields = {"qform_code": 1, "qoffset_x": -5, **fields}
    path = write_nifti(tmp_path / "a.nii.gz", make_image(), **fields)
    assert code_of(path) == code


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_no_prefix_of_a_file_is_ever_read(suffix: str, tmp_path: Path) -> None:
    data = make_bytes(make_image()[:5, :4, :3])
    data = gzip.compress(data) if suffix == ".nii.gz" else data
    path = tmp_path / f"a{suffix}"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(DataError):
            io.read_volume(path)


def test_no_changed_byte_of_the_compressed_stream_changes_what_is_read(tmp_path: Path) -> None:
    good = make_image()[:5, :4, :3]
    data = gzip.compress(make_bytes(good), mtime=0)
    path = tmp_path / "a.nii.gz"
    refused = 0
    for at in range(10, len(data)):  # the first ten bytes are the gzip header: flags, time, system
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:  # a flipped bit in the padding of a deflate block changes nothing
            assert np.array_equal(io.read_volume(path).array[0], good)
        except DataError:
            refused += 1
    assert refused >= len(data) - 15


def test_gzip_bomb_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(make_bytes(make_image()) + bytes(50_000_000), 1))
    start = time.process_time()
    assert code_of(path) == "NII_TRAILING"
    assert time.process_time() - start < 0.5


def test_size_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.nii.gz")
    monkeypatch.setenv("MEDSEG_MAX_IMAGE_GB", "1e-7")
    assert code_of(path) == "NII_TOO_LARGE"


@pytest.mark.parametrize("text", ["many", "0", "-1", "inf", "nan"])
def test_size_limit_must_be_a_positive_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = write_image(tmp_path / "a.nii.gz")
    monkeypatch.setenv("MEDSEG_MAX_IMAGE_GB", text)
    with pytest.raises(ConfigError):
        nifti.read(path)


def test_zeros_after_the_voxels_are_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(make_bytes(make_image()) + bytes(512)) + bytes(7))
    assert np.array_equal(io.read_volume(path).array[0], make_image())


def test_bytes_after_the_gzip_stream_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(make_bytes(make_image())) + b"more")
    assert code_of(path) == "NII_TRAILING"


def test_gzip_of_several_members_is_read(tmp_path: Path) -> None:
    data = make_bytes(make_image())
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:1000]) + gzip.compress(data[1000:]))
    assert np.array_equal(io.read_volume(path).array[0], make_image())


def test_file_of_ten_thousand_gzip_members_is_read_quickly(tmp_path: Path) -> None:
    data = make_bytes(np.zeros((1000, 200, 5), np.int16))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"".join(gzip.compress(data[at : at + 200], 0) for at in range(0, len(data), 200)))
    start = time.process_time()
    assert io.read_volume(path).array.shape == (1, 1000, 200, 5)
    assert time.process_time() - start < 2.0


def test_count_of_voxels_that_are_not_finite_is_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 of 960 voxels"):
        io.read_volume(BAD_IMAGES["nan_block"](tmp_path / "a.nii.gz"))


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        io.read_volume(tmp_path / "a.nii.gz")
    assert caught.value.code == "FILE_MISSING"


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_real_type_byte_order_and_version_is_read_as_stored(
    dtype: str, order: str, version: type, tmp_path: Path
) -> None:
    label = make_label().astype(dtype)
    header = version.header_class(endianness=order)
    header.set_data_dtype(dtype)
    nib.save(version(label, AFFINE, header), tmp_path / "a.nii.gz")
    volume = io.read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array[0], label)
    assert np.array_equal(volume.geometry.affine, AFFINE)


def test_voxels_can_be_written_to(tmp_path: Path) -> None:
    assert io.read_volume(write_image(tmp_path / "a.nii.gz")).array.flags.writeable


@pytest.mark.parametrize("slope", [0, NAN, 1])
def test_slope_of_zero_or_nan_means_no_scaling(slope: float, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_image(), scl_slope=slope, scl_inter=0)
    assert io.read_volume(path).array.dtype == np.int16


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_image(), scl_slope=0.5, scl_inter=-1024)
    array = io.read_volume(path).array[0]
    assert array.dtype == np.float32
    assert np.array_equal(array, make_image() * 0.5 - 1024)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((12, 10), (1, 12, 10, 1)),
        ((12, 10, 1), (1, 12, 10, 1)),
        ((12, 10, 8, 1), (1, 12, 10, 8)),
        ((12, 10, 8, 2), (2, 12, 10, 8)),
        ((12, 10, 8, 1, 2), (2, 12, 10, 8)),
        ((12, 10, 8, 1, 1, 1, 1), (1, 12, 10, 8)),
    ],
)
def test_axes_after_the_third_become_channels(
    stored: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.arange(np.prod(stored), dtype=np.int16).reshape(stored)
    dim = [len(stored), *stored, *[1] * (7 - len(stored))]
    flat = make_bytes(array.reshape(-1, 1, 1, order="F"))
    (tmp_path / "a.nii").write_bytes(patch(flat, dim=dim))
    volume = io.read_volume(tmp_path / "a.nii")
    assert volume.array.shape == expected
    for channel in range(expected[0]):
        kept = array if expected[0] == 1 else array[..., channel]
        assert np.array_equal(volume.array[channel].ravel(), kept.ravel())


@pytest.mark.parametrize(("unit", "factor"), [("unknown", 1), ("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_lengths_become_millimetres(unit: str, factor: float, tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_image(), AFFINE)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = np.diag([factor, factor, factor, 1]) @ AFFINE
    assert np.allclose(io.read_geometry(tmp_path / "a.nii.gz").affine, expected)


def test_qform_and_sform_within_a_tenth_of_a_millimetre_agree(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_image(), qform_code=1, qoffset_x=-5.09)
    assert io.read_geometry(path).affine[0, 3] == -5


@pytest.mark.parametrize("handedness", [-1, 0, 1])
def test_qform_equals_nibabel(handedness: int, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    fields = {"quatern_b": 0.1, "quatern_c": -0.5, "quatern_d": 0.7, "qoffset_y": 12}
    write_nifti(
        path,
        make_image(),
        qform_code=1,
        sform_code=0,
        pixdim=[handedness, 1, 1.5, 3, 0, 0, 0, 0],
        **fields,
    )
    assert np.allclose(io.read_geometry(path).affine, nib.load(path).affine, atol=1e-5)


def test_quaternion_of_half_a_turn_survives_rounding(tmp_path: Path) -> None:
    path = write_nifti(
        tmp_path / "a.nii.gz",
        make_image(),
        qform_code=1,
        sform_code=0,
        quatern_b=0,
        quatern_c=0,
        quatern_d=1.0001,
    )
    assert np.allclose(io.read_geometry(path).direction, np.diag([-1, -1, 1]))


def test_geometry_needs_no_voxels(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(make_bytes(make_image())[:352])
    assert io.read_geometry(path).shape == SHAPE


def test_nifti_without_compression_under_a_gz_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(make_bytes(make_image()))
    assert np.array_equal(io.read_volume(path).array[0], make_image())


def test_whole_numbers_stored_as_floats_become_the_smallest_integers(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_label().astype(np.float64))
    labels = io.read_labels(path)
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, make_label())


def test_negative_whole_numbers_stay_signed(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_label().astype(np.float32) - 300)
    assert io.read_labels(path).array.dtype == np.int16


def test_label_map_of_fractions_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", make_label() * np.float32(0.5))
    with pytest.raises(DataError, match="27 of 960") as caught:
        io.read_labels(path)
    assert caught.value.code == "LABEL_NOT_INTEGER"


def test_label_map_of_two_channels_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.stack([make_label(), make_label() + 1], axis=-1))
    with pytest.raises(DataError) as caught:
        io.read_labels(path)
    assert caught.value.code == "LABEL_CHANNELS"
