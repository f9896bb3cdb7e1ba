"""Where to look: coarse voxels, boxes and margins, and what a locator may be trusted with."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.inference.locator import (
    Locator,
    build_network,
    choose_spacing,
    find_spans,
    place_edges,
    shrink,
    widen,
)
from medseg.inference.modes import MODES, apply_mode, describe_effort, find_box
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel
from tests.builders import make_plan

SPACING_MM = (1.5, 1.5, 3.0)


class Bright(nn.Module):
    """Takes coarse voxels above 1 for foreground."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), (image - 1) * self.scale], dim=1)


def make_locator(recall: float = 1.0, margin_mm: float = 4.0) -> Locator:
    return Locator(Bright(), (6.0, 6.0, 6.0), 0.5, margin_mm, recall, sha256="abcdef0123456789")


def make_image() -> np.ndarray:
    """48 x 40 x 30 voxels; a bright block where coarse voxels lie at 3..4, 2..3, 5..6."""
    image = np.zeros((1, 48, 40, 30), np.float16)
    image[0, 12:20, 8:16, 10:14] = 3
    image[0, :, :, 2:] += 0.25
    return image


def make_model(locator: Locator | None = None, **settings: object) -> TrainedModel:
    networks = (nn.Identity(), nn.Identity(), nn.Identity())
    plan = make_plan(patch=(16, 16, 8), spacing_mm=SPACING_MM, mirror_axes=(0, 1))
    infer = Infer.model_validate(settings)
    return TrainedModel("a", None, plan, infer, networks, "", "", locator=locator)  # type: ignore[arg-type]


def test_coarse_voxels_are_6_mm_or_4_of_the_plans_and_no_finer_than_the_plan():
    assert choose_spacing((1.5, 1.5, 3.0)) == (6.0, 6.0, 6.0)
    assert choose_spacing((0.5, 0.5, 5.0)) == (2.0, 2.0, 5.0)


def test_every_voxel_belongs_to_one_coarse_voxel():
    first, second, third = place_edges((9, 40, 1), SPACING_MM, (6.0, 6.0, 6.0))
    assert (
        first.tolist() == [0, 4, 9] and second.tolist() == list(range(0, 41, 4)) and third.tolist() == [0, 1]
    )


def test_shrinking_takes_means():
    image = np.arange(24, dtype=np.float16).reshape(1, 4, 3, 2)
    small = shrink(image, [np.array([0, 2, 4]), np.array([0, 3]), np.array([0, 1, 2])])
    assert small.shape == (1, 2, 1, 2) and small.dtype == np.float32
    assert small[0, :, 0].tolist() == [[5.0, 6.0], [17.0, 18.0]]


def test_nothing_located_has_no_box():
    assert find_spans(np.zeros((2, 2, 2), bool), [np.array([0, 1, 2])] * 3) is None


def test_a_margin_in_mm_is_more_voxels_along_finer_axes_and_ends_at_the_border():
    box = widen(((4, 8), (1, 4), (2, 6)), 4.0, SPACING_MM, (20, 20, 7))
    assert box == (slice(1, 11), slice(0, 7), slice(0, 7))


def test_the_box_holds_what_was_located_and_the_margin():
    # Coarse voxels of 4 x 4 x 2: the block fills 3..4, 2..3 and 5..6; 4 mm are 3, 3 and 2 voxels.
    assert make_locator().find(make_image(), SPACING_MM) == (slice(9, 23), slice(5, 19), slice(8, 16))


def test_an_image_too_small_for_the_network_has_no_box():
    assert make_locator().find(np.ones((1, 32, 32, 16), np.float16) * 3, SPACING_MM) is None


def test_the_network_takes_coarse_images_of_any_larger_size():
    network = build_network(2, (20, 17, 3)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 2, 9, 30, 1)).shape == (1, 2, 9, 30, 1)


# ---- modes ----------------------------------------------------------------------------------------


def test_exact_is_what_the_model_says():
    model = make_model(overlap=0.3)
    applied, mode = apply_mode(model, "exact")
    assert applied == model and not mode.is_located
    assert describe_effort(applied, mode) == {"networks": 3, "where": "everywhere"}


def test_fast_takes_one_network_without_mirroring_and_little_overlap():
    applied, mode = apply_mode(make_model(overlap=0.5, mirror=True), "fast")
    assert (applied.infer.overlap, applied.infer.mirror, len(applied.networks)) == (0.25, False, 1)
    assert describe_effort(applied, mode) == {"networks": 1, "where": "content"}


@pytest.mark.parametrize(("own", "overlap"), [(0.25, 0.5), (0.75, 0.75)])
def test_accurate_takes_all_networks_mirroring_and_no_less_overlap(own: float, overlap: float):
    applied, _ = apply_mode(make_model(overlap=own), "accurate")
    assert (applied.infer.overlap, applied.infer.mirror, len(applied.networks)) == (overlap, True, 3)


def test_fast_never_overlaps_more_than_the_model():
    assert apply_mode(make_model(overlap=0.1), "fast")[0].infer.overlap == 0.1


def test_an_unknown_mode_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        apply_mode(make_model(), "acurate")
    assert "accurate" in caught.value.hint and set(MODES) == {"exact", "fast", "accurate"}


def test_where_to_look_comes_from_a_trusted_locator():
    model = make_model(make_locator())
    assert find_box(model, make_image()) == (slice(9, 23), slice(5, 19), slice(8, 16))
    assert describe_effort(model, MODES["fast"])["where"] == "locator abcdef012345"


@pytest.mark.parametrize("locator", [None, make_locator(recall=0.998)])
def test_without_a_locator_that_misses_little_all_but_air_is_looked_at(locator: Locator | None):
    model = make_model(locator)
    assert find_box(model, make_image()) == (slice(0, 48), slice(0, 40), slice(2, 30))
    assert describe_effort(model, MODES["fast"])["where"] == "content"


def test_where_nothing_is_located_all_but_air_is_looked_at():
    dim = np.minimum(make_image(), np.float16(0.5))
    assert find_box(make_model(make_locator()), dim) == (slice(0, 48), slice(0, 40), slice(2, 30))
