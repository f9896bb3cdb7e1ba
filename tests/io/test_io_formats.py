from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medseg import io
from medseg.core.errors import DataError
from tests.bad_nifti import SHAPE, write_image


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", "a"),
        ("a.b.nii", "a.b"),
        ("A.NII.GZ", "A"),
        ("a.nrrd", "a"),
        ("a.mha", "a"),
        ("a.mhd", "a"),
        ("a.png", "a"),
        ("a.tif", "a"),
        ("a.tiff", "a"),
        ("a.txt", "a.txt"),
        ("folder/a.nii.gz", "a"),
    ],
)
def test_stem_is_the_name_without_the_image_suffix(name: str, expected: str) -> None:
    assert io.stem(Path(name)) == expected


@pytest.mark.parametrize(("name", "expected"), [("a.nii.gz", True), ("._a.nii.gz", False), ("a.csv", False)])
def test_hidden_and_other_files_are_not_images(name: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert io.is_image(tmp_path / name) is expected


def test_folder_with_an_image_name_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    assert not io.is_image(tmp_path / "a.nii.gz")


def test_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    assert io.read_volume(write_image(tmp_path / "scan")).geometry.shape == SHAPE


def test_unknown_content_without_a_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan").write_text("hello")
    with pytest.raises(DataError) as caught:
        io.read_volume(tmp_path / "scan")
    assert caught.value.code == "FORMAT_UNKNOWN"


def test_folder_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(DataError) as caught:
        io.read_volume(tmp_path / "a.nii.gz")
    assert caught.value.code == "FILE_UNREADABLE"


def test_import_is_light() -> None:
    heavy = "{'nibabel', 'SimpleITK', 'torch', 'monai', 'scipy', 'PIL'}"
    code = f"import sys, medseg.io; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    root = Path(io.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr


def test_every_suffix_belongs_to_one_format() -> None:
    suffixes = [suffix for format_ in io.FORMATS.values() for suffix in format_.suffixes]
    assert len(suffixes) == len(set(suffixes)) == len(io.SUFFIXES)
