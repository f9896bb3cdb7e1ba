"""A model on an image: logits that are no numbers, heads on another device, what views cost."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import DataError
from medseg.data.settings import Channel, Data
from medseg.inference import views
from medseg.inference.forecast import measure_mb
from medseg.inference.head import Head
from medseg.inference.predict import Ensemble
from medseg.inference.segment import Segmenter
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel
from medseg.inference.way import Way
from tests.builders import make_plan

IMAGE = np.random.default_rng(0).normal(size=(1, 14, 9, 4)).astype(np.float16)
CPU_BLEND = Way(1, blends_on_cpu=True)


def make_segmenter(
    n_features: int = 6, n_outputs: int = 3, *, is_watched: bool = False, **settings: object
) -> Segmenter:
    """Two layers; with fewer features than outputs the second becomes a late head."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, n_features, 3, padding=1), nn.Conv3d(n_features, n_outputs, 1))
    labels = {index: f"organ {index}" for index in range(1, n_outputs)}
    data = Data(channels={"ct": Channel()}, labels=labels)
    infer = Infer.model_validate(settings)
    plan = make_plan(strides=((1, 1, 1),), mirror_axes=(0, 2))
    model = TrainedModel("a", data, plan, infer, (network.eval(),), "", "")
    return Segmenter(model, infer, tells_disagreement=is_watched)


def refuse(segmenter: Segmenter, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        list(segmenter.stream(IMAGE, **options))  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("n_features", "layer"), [(6, 0), (6, 1), (2, 0), (2, 1)])
@torch.no_grad()
def test_logits_that_are_no_numbers_refuse_the_case(value: float, n_features: int, layer: int):
    segmenter = make_segmenter(n_features, 5)
    assert (segmenter.ensemble.head is not None) is (n_features == 2)
    convolution = segmenter.model.networks[0][layer]  # type: ignore[index]
    convolution.bias[0] = value
    if segmenter.ensemble.head is not None and layer == 1:
        assert segmenter.ensemble.head.bias.isfinite().all().item() is False
    assert refuse(segmenter).code == "LOGITS_NOT_FINITE"


@torch.no_grad()
def test_one_voxel_that_is_no_number_is_enough():
    image = IMAGE.copy()
    image[0, 13, 8, 3] = np.nan
    with pytest.raises(DataError, match="no numbers"):
        make_segmenter().predict(image)


@pytest.mark.parametrize("n_features", [6, 2])
@torch.no_grad()
def test_huge_numbers_are_numbers_though_their_sum_is_none(n_features: int):
    segmenter = make_segmenter(n_features, 5)
    convolution = segmenter.model.networks[0][0]  # type: ignore[index]
    convolution.bias[0] = 3e38
    assert all(slab.is_finite() for slab in segmenter.stream(IMAGE))


@torch.no_grad()
def test_on_a_gpu_the_hint_names_float32():
    segmenter = make_segmenter()
    segmenter.model.networks[0][0].bias[0] = torch.nan  # type: ignore[index]
    assert "float32" not in refuse(segmenter).hint
    segmenter.device = torch.device("cuda")  # where it would be, blended on the CPU
    assert "float32" in refuse(segmenter, way=CPU_BLEND).hint


class Elsewhere(Head):
    """A head that does nothing before it is moved."""

    def __call__(self, features_F: Tensor) -> Tensor:
        raise RuntimeError("tensors on two devices")


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_late_head_goes_where_windows_are_blended(is_watched: bool):
    segmenter = make_segmenter(2, 5, mirror=True, is_watched=is_watched)
    expected = segmenter.predict(IMAGE)
    head = segmenter.ensemble.head
    assert head is not None
    away = Ensemble(
        segmenter.ensemble.members,
        segmenter.ensemble.mirror_axes,
        Elsewhere(head.weight, head.bias),
        segmenter.ensemble.activation,
    )
    segmenter.ensemble = away
    assert np.array_equal(segmenter.predict(IMAGE), expected)


# ---- disagreement of views --------------------------------------------------------------------------


def compare_at_once(outputs: list[Tensor], activation) -> tuple[Tensor, Tensor]:
    """The straightforward computation."""
    chances = torch.stack([activation(output) for output in outputs])
    apart = (chances - chances.mean(0)).abs().sum(2).mean(0) / 2
    return torch.stack(outputs).mean(0), apart


@pytest.mark.parametrize("chances", [1, 200, 1 << 21])
@pytest.mark.parametrize("is_filed", [False, True])
def test_views_compared_in_parts_give_what_all_at_once_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chances: int, is_filed: bool
):
    monkeypatch.setattr(views, "CHANCES", chances)
    torch.manual_seed(0)
    members = [nn.Conv3d(1, 4, 3, padding=1).eval() for _ in range(3)]
    softmax, stack = partial(torch.softmax, dim=1), torch.randn(2, 1, 4, 5, 3)
    with torch.no_grad():
        expected, apart = compare_at_once([member(stack) for member in members], softmax)
    found = Ensemble(members, activation=softmax)(stack, tmp_path if is_filed else None)
    torch.testing.assert_close(found[:, :-1], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, -1], apart, rtol=0, atol=1e-6)
    assert torch.equal(found[:, :-1], Ensemble(members)(stack)) and not list(tmp_path.iterdir())


def test_a_late_head_tells_the_disagreement_of_its_logits():
    late, whole = (make_segmenter(2, 5, mirror=True, is_watched=True) for _ in range(2))
    assert late.ensemble.head is not None and late.n_values == 2 + 1
    members = [nn.Sequential(*whole.model.networks[0].children())]  # type: ignore[arg-type]
    whole.ensemble = Ensemble(members, (0, 2), activation=whole.ensemble.activation)
    for one, other in zip(late.stream(IMAGE), whole.stream(IMAGE), strict=True):
        assert one.disagreement is not None and other.disagreement is not None
        torch.testing.assert_close(one.disagreement, other.disagreement, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.logits(), other.logits(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("is_filed", "most"), [(False, 4 + 2.5), (True, 3.0)])
def test_views_take_no_more_than_their_outputs_and_in_a_file_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_filed: bool, most: float
):
    monkeypatch.setattr(views, "CHANCES", 1 << 16)
    ensemble = Ensemble(
        [lambda stack: stack.expand(-1, 36, -1, -1, -1) * 1.0] * 4, activation=partial(torch.softmax, dim=1)
    )
    stack, one_mb = torch.randn(1, 1, 64, 64, 64), 36.0  # more than malloc ever keeps
    work = partial(ensemble, stack, tmp_path if is_filed else None)
    work()  # what a first pass leaves behind
    assert measure_mb(work) <= most * one_mb
