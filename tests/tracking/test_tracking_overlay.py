import io

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.tracking.overlay import INK, PAIRS, _choose_labels, draw_overlay, pick_cases
from medseg.tracking.planes import cut_panels

GRID = Geometry.of_spacing((12, 10, 6), (1, 1, 3))


def read_png(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.round(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(int)


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    return bool((np.abs(picture - wanted).max(axis=-1) <= 12).sum() > 20)


@pytest.fixture
def masks() -> tuple[np.ndarray, np.ndarray]:
    reference, predicted = np.zeros((2, *GRID.shape), np.uint8)
    reference[2:6, 2:6, 1:4] = 1
    predicted[4:8, 2:6, 1:4] = 1
    return reference, predicted


def test_reference_and_prediction_are_drawn_in_their_colours(masks):
    image = Volume(np.zeros((1, *GRID.shape)), GRID)
    picture = read_png(draw_overlay("a", image, *masks, {1: "organ"}))

    assert has_colour(picture, PAIRS[0][0])
    assert has_colour(picture, PAIRS[0][1])


def test_without_a_reference_only_the_prediction_is_drawn(masks):
    image = Volume(np.zeros((1, *GRID.shape)), GRID)
    picture = read_png(draw_overlay("a", image, None, masks[1], {1: "organ"}))

    assert not has_colour(picture, PAIRS[0][0])
    assert has_colour(picture, PAIRS[0][1])


def test_words_and_scale_bar_are_drawn_of_an_empty_case():
    image = Volume(np.zeros((1, *GRID.shape), np.int16), GRID)
    empty = np.zeros(GRID.shape, np.uint8)
    picture = read_png(draw_overlay("a $case$", image, empty, empty, {1: "organ"}))

    assert has_colour(picture, INK)


def test_image_of_nan_is_drawn(masks):
    image = Volume(np.full((1, *GRID.shape), np.nan, np.float32), GRID)

    assert draw_overlay("a", image, *masks, {1: "organ"}).startswith(b"\x89PNG")


def test_of_many_labels_the_largest_are_drawn_one_per_pair_of_colours():
    labels = np.zeros((20, 20, 4), np.uint8)
    for n in range(5):
        labels[4 * n : 4 * n + 3, 1 : 5 + 3 * n, 1:3] = n + 1  # the first is the smallest
    image = Volume(np.zeros((1, 20, 20, 4)), Geometry.of_spacing((20, 20, 4), (1, 1, 3)))
    drawn = _choose_labels(cut_panels(image, labels, labels), {n: f"organ {n}" for n in range(1, 6)})

    assert drawn == {n: f"organ {n}" for n in range(2, 6)}
    assert len(PAIRS) == 4


def test_2d_colour_picture_keeps_its_colours():
    array = np.zeros((3, 30, 20, 1), np.uint8)
    array[0] = 200
    image = Volume(array, Geometry.of_spacing((30, 20, 1), (1, 1, 1)))
    picture = read_png(draw_overlay("a", image, None, np.zeros((30, 20, 1), np.uint8), {1: "cell"}))

    assert has_colour(picture, "#c80000")


def test_window_maps_its_ends_to_black_and_white():
    array = np.full((1, 30, 20, 1), 100.0)
    image = Volume(array, Geometry.of_spacing((30, 20, 1), (1, 1, 1)))
    empty = np.zeros((30, 20, 1), np.uint8)

    assert has_colour(read_png(draw_overlay("a", image, None, empty, {}, window=(0, 100))), "#ffffff")
    assert has_colour(read_png(draw_overlay("a", image, None, empty, {}, window=(100, 300))), "#000000")


def test_same_case_gives_the_same_bytes(masks):
    image = Volume(np.zeros((1, *GRID.shape)), GRID)

    assert draw_overlay("a", image, *masks, {1: "organ"}) == draw_overlay("a", image, *masks, {1: "organ"})


def test_worst_median_and_best_case_are_picked():
    scores = {"a": 0.9, "b": 0.1, "c": 0.5, "d": None, "e": float("nan")}

    assert pick_cases(scores) == {"worst": "b", "median": "c", "best": "a"}


def test_ties_go_to_the_first_id_and_even_counts_to_the_lower_middle():
    assert pick_cases({"b": 0.5, "a": 0.5}) == {"worst": "a", "median": "a", "best": "a"}
    assert pick_cases({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})["median"] == "b"


def test_nothing_is_picked_where_no_score_is_defined():
    assert pick_cases({"a": None}) == {}


def test_ignored_voxels_are_neither_drawn_nor_compared(masks):
    image = Volume(np.zeros((1, *GRID.shape)), GRID)
    reference, predicted = masks
    ignored = reference.copy()
    ignored[6:8] = 9  # where the prediction goes beyond the reference
    cut = predicted.copy()
    cut[6:8] = 0
    found = read_png(draw_overlay("a", image, ignored, predicted, {1: "organ"}, ignore_label=9))
    words = slice(0, 60), slice(found.shape[1] // 2, None)  # the Dice, at the top right
    compared = read_png(draw_overlay("a", image, reference, cut, {1: "organ"}))
    assert np.array_equal(found[words], compared[words])
    assert not np.array_equal(found, compared)
