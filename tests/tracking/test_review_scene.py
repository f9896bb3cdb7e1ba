"""What the page gets of a scan: sampled, encoded, cropped and reduced to a budget."""

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.tracking.review.encode import choose_levels, pack, pack_grey, quantize, unpack, unpack_grey
from medseg.tracking.review.sampling import sample_image, sample_labels, weigh_axis
from medseg.tracking.review.scene import OTHER, Channel, Scene, cut_scene, measure_bytes

SHAPE, SPACING_MM = (60, 50, 20), (1.0, 1.0, 3.0)


def make_scene(shape=SHAPE, noise=1.0, picture=False, **more):
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(n // 2 - 2, n // 2 + 2) if n > 4 else slice(None) for n in shape)] = 7
    geometry = Geometry(shape, np.eye(4)) if picture else Geometry.of_spacing(shape, SPACING_MM)
    image = (1000 * noise * rng.random((1, *shape))).astype(np.float32)
    return Scene(geometry, labels, labels, image, channels=[Channel("ct", "HU")], **more)


def test_samples_and_outputs_at_the_same_places_are_the_identity():
    assert np.array_equal(weigh_axis(4, (0, 4), (0, 4), 4), np.eye(4))


def test_half_as_many_outputs_mix_neighbours_by_a_triangle():
    # The second of four outputs of eight samples has its centre at 2.5; samples lie 1.5, .5, .5, 1.5 away.
    expected = np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8
    assert np.allclose(weigh_axis(8, (0, 8), (0, 8), 4)[1], expected)


def test_samples_of_a_part_of_the_scan_are_found_by_their_place():
    # Four samples lie on voxels 2 to 9, two voxels each: the centre of voxel 4 is at sample 0.75.
    row = weigh_axis(4, (2, 10), (4, 5), 1)[0]
    assert np.allclose(row, [0.25, 0.75, 0, 0])


def test_outside_of_what_is_held_it_is_as_dark_as_the_darkest():
    weights = [
        weigh_axis(2, (0, 2), (0, 2), 2),
        weigh_axis(2, (1, 3), (0, 3), 3),
        weigh_axis(1, (0, 1), (0, 1), 1),
    ]
    image = np.array([[5.0, 6], [7, 8]])[:, :, None]
    assert sample_image(image, weights)[..., 0].tolist() == [[5, 5, 6], [5, 7, 8]]


def test_nothing_held_is_black():
    weights = [weigh_axis(2, (0, 2), (5, 7), 2)] * 3
    assert not sample_image(np.ones((2, 2, 2)), weights).any()


def test_labels_are_those_at_the_centres():
    labels = np.arange(6).reshape(6, 1, 1)
    assert sample_labels(labels, [(0, 6), (0, 1), (0, 1)], (3, 1, 1)).ravel().tolist() == [1, 3, 5]


def test_few_values_are_levels_themselves():
    assert choose_levels(np.array([3.0, -1, 3, 7], np.float32)).tolist() == [-1, 3, 7]


def test_levels_are_finer_where_voxels_are():
    rng = np.random.default_rng(0)
    tissue, rest = rng.normal(50, 20, 90_000), rng.uniform(-1000, 2000, 10_000)
    steps = np.diff(levels := choose_levels(np.concatenate([tissue, rest]).astype(np.float32)))
    assert len(levels) == 256
    assert steps[(levels[:-1] > 20) & (levels[:-1] < 80)].max() < 1.5 < 10 < steps[levels[:-1] > 1000].min()


def test_one_hot_voxel_leaves_the_range_to_the_others():
    values = np.zeros(10_000, np.float32)
    values[:300] = np.arange(300) / 1e6
    assert choose_levels(np.append(values, 9e9).astype(np.float32))[-1] < 1


def test_a_constant_with_hot_voxels_has_levels_up_to_them():
    values = np.zeros(1_000_000, np.float32)
    values[:300] = np.arange(300)
    assert choose_levels(values)[-1] == 299


def test_a_value_gets_the_nearest_level():
    assert quantize(np.array([0.0, 1.4, 1.6, 9], np.float32), np.array([0.0, 1, 2])).tolist() == [0, 1, 2, 2]


def test_grey_comes_back_as_it_was():
    codes = np.random.default_rng(0).integers(0, 256, (4, 3, 2)).astype(np.uint8)
    assert np.array_equal(unpack_grey(pack_grey(codes), codes.shape), codes)
    assert np.array_equal(unpack(pack(codes), codes.shape), codes)


def test_what_fits_is_shown_whole():
    block = cut_scene(make_scene(), [7], 10**6)
    assert block["shape"] == block["scan"] == list(SHAPE)
    assert block["note"] == "The whole scan, 60 × 50 × 20 voxels."


def test_grey_values_are_scaled_and_at_most_a_level_away():
    scene = make_scene()
    shown = Scene(
        scene.geometry, scene.predicted, None, scene.image, channels=[Channel("ct", "HU", 2.0, -5.0)]
    )
    channel = cut_scene(shown, [7], 10**6)["channels"][0]
    found = np.array(channel["levels"])[unpack_grey(channel["data"], SHAPE)]
    assert np.abs(found - (2 * scene.image[0] - 5)).max() < 2000 / 128
    assert (channel["name"], channel["unit"]) == ("ct", "HU")


def test_a_label_is_its_place_in_the_list_and_others_are_told_apart():
    scene = make_scene()
    scene.predicted[0, 0, 0] = 9
    masks = unpack(cut_scene(scene, [3, 7], 10**6)["predicted"], SHAPE)
    assert masks[30, 25, 10] == 2
    assert masks[0, 0, 0] == OTHER


def test_less_room_is_spent_on_what_is_around_the_structures():
    scene = make_scene()
    block = cut_scene(scene, [7], measure_bytes(cut_scene(scene, [7], 10**6)) - 1)
    # 20 mm around 4 voxels of 1 mm and, with 7 slices of 3 mm, around 4 of those.
    assert (block["start"], block["stop"]) == ([8, 3, 1], [52, 47, 19])
    assert block["shape"] == [44, 44, 18]
    assert block["note"] == "Cropped to 44 × 44 × 18 of 60 × 50 × 20 voxels, 58 % of the scan."


@pytest.mark.parametrize("budget", [8_000, 15_000, 30_000])
def test_even_less_makes_cubes_within_the_budget(budget):
    block = cut_scene(make_scene(), [7], budget)
    assert measure_bytes(block) <= budget
    assert max(block["spacing"]) / min(block["spacing"]) < 3.1
    assert "Reduced to" in block["note"]
    assert "mm instead of 1 × 1 × 3 mm" in block["note"]


def test_a_budget_of_nothing_still_ends():
    assert cut_scene(make_scene(), [7], 10)["shape"] != list(SHAPE)


def test_without_structures_the_whole_scan_is_reduced():
    scene = make_scene()
    scene.predicted[:] = 0
    block = cut_scene(scene, [7], 15_000)
    assert block["stop"] == list(SHAPE)


def test_a_picture_is_never_cropped():
    block = cut_scene(make_scene((300, 200, 1), picture=True), [7], 30_000)
    assert block["picture"]
    assert block["stop"] == [300, 200, 1]
    assert block["note"].startswith("Reduced to") and block["note"].endswith("pixels.")


def test_masks_are_shown_without_an_image():
    scene = make_scene()
    block = cut_scene(Scene(scene.geometry, scene.predicted, note="No image."), [7], 10**5)
    assert block["channels"] == [] and block["reference"] is None
    assert block["note"].endswith("No image.")


def test_planes_of_an_oblique_scan_say_so():
    affine = np.diag([1.0, 1, 3, 1])
    turn = np.radians(20)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    scene = make_scene()
    block = cut_scene(Scene(Geometry(SHAPE, affine), scene.predicted), [7], 10**5)
    assert "up to 20 degrees" in block["note"]
