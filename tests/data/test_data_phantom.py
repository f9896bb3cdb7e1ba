import json

import numpy as np
import pytest

from medseg.core.files import sha256_of_file
from medseg.data.checks import check_case
from medseg.data.layouts import find_cohort
from medseg.data.phantom import KINDS, SPACING_MM, make_ct, make_xray, write_ct_cohort
from medseg.data.settings import Channel, Data
from medseg.io import read_labels

SETTINGS = {
    "ct": Data(channels={"ct": Channel(normalize="ct")}, labels={1: "organ", 2: "lesion"}),
    "xray": Data(channels={"xray": Channel()}, labels={1: "lung"}, label_map={"nonzero": 1}),
}


def best_window_dice(values, mask):
    """Return the highest Dice of all masks `low <= value < high`.

    Every pair of 500 quantiles is tried, so that bounds are dense where values are.
    """
    bounds = np.unique(np.append(np.quantile(values, np.linspace(0, 1, 500)), np.inf))
    inside = np.append(0, np.cumsum(np.histogram(values[mask], bounds)[0]))
    total = np.append(0, np.cumsum(np.histogram(values, bounds)[0]))
    hits = inside[None] - inside[:, None]  # [low, high]
    sizes = total[None] - total[:, None]
    return float((2 * hits / np.maximum(sizes + mask.sum(), 1)).max())


def test_the_search_for_a_window_finds_one_that_exists():
    values = np.random.default_rng(0).normal(0, 100, 20_000)
    assert best_window_dice(values, (values > -20) & (values < 60)) > 0.98


@pytest.mark.parametrize("seed", [0, 11])
@pytest.mark.parametrize("index", range(5))
def test_no_window_of_intensities_finds_organ_or_lesion(seed, index):
    image, label = make_ct(np.random.default_rng([seed, index]))
    for value in (1, 2):
        assert 0 < best_window_dice(image.array.ravel(), label.array.ravel() == value) <= 0.6


@pytest.mark.parametrize("seed", [0, 11])
@pytest.mark.parametrize("index", range(5))
def test_no_window_of_intensities_finds_the_lungs(seed, index):
    gray, mask = make_xray(np.random.default_rng([seed, index]))
    assert 0 < best_window_dice(gray.ravel(), mask.ravel() == 1) <= 0.6


def test_one_window_for_the_whole_cohort_is_no_better():
    cases = [make_ct(np.random.default_rng([0, index])) for index in range(4)]
    values = np.concatenate([image.array.ravel() for image, _ in cases])
    for value in (1, 2):
        assert (
            best_window_dice(values, np.concatenate([label.array.ravel() == value for _, label in cases]))
            <= 0.6
        )


def test_every_organ_lies_on_the_patients_right_and_holds_its_lesions():
    from scipy.ndimage import binary_fill_holes

    for index in range(10):
        _, label = make_ct(np.random.default_rng([0, index]))
        assert np.argwhere(label.array > 0)[:, 0].mean() > 28
        assert (label.array == 2).sum() > 30
        outer = binary_fill_holes(label.array > 0)
        assert (label.array[outer] > 0).all()


def test_a_phantom_is_anisotropic_and_in_hounsfield_units():
    image, label = make_ct(np.random.default_rng(0))
    assert image.geometry.spacing_mm == SPACING_MM == (2, 2, 4)
    assert image.array.dtype == np.float32
    assert np.median(image.array[0][label.array == 1]) == pytest.approx(60, abs=5)
    assert image.array.min() < -1000


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not(tmp_path, kind):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        KINDS[kind](tmp_path / name, 2, seed)
    a, b, c = (
        [sha256_of_file(path) for path in sorted((tmp_path / name).rglob("*.*")) if path.suffix != ".json"]
        for name in "abc"
    )
    assert a == b
    assert not set(a) & set(c)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_cohort_begins_with_the_shorter_one(tmp_path, kind):
    KINDS[kind](tmp_path / "one", 1, 0)
    KINDS[kind](tmp_path / "two", 2, 0)
    for path in (tmp_path / "one").rglob("*.*"):
        if path.suffix != ".json":
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize(("kind", "layout"), [("ct", "msd"), ("xray", "folders")])
def test_a_cohort_is_found_and_every_case_usable(tmp_path, kind, layout):
    KINDS[kind](tmp_path, 3, 0)
    found, cases = find_cohort(tmp_path, SETTINGS[kind])
    assert (found, len(cases)) == (layout, 3)
    assert [check_case(case, SETTINGS[kind]).code for case in cases] == [""] * 3


def test_lung_masks_are_stored_as_pictures_are(tmp_path):
    KINDS["xray"](tmp_path, 1, 0)
    assert np.unique(read_labels(tmp_path / "masks" / "phantom_000.png").array).tolist() == [0, 255]


def test_the_list_of_a_cohort_names_its_licence(tmp_path):
    write_ct_cohort(tmp_path, 1, 0)
    assert json.loads((tmp_path / "dataset.json").read_text())["licence"] == "CC0-1.0"
