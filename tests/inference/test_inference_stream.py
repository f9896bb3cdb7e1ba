"""Slabs: in order, complete, no more than a window deep, and together what blending the whole gives."""

from functools import partial
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.inference.head import Head
from medseg.inference.predict import Ensemble, collect, forward, predict_logits, stream_logits
from medseg.inference.rolling import Rolling
from medseg.inference.windows import gaussian_weights, plan_windows

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Ramps(nn.Module):
    """Two outputs that depend on the place in the window, so that every mix-up shows."""

    def forward(self, image: Tensor) -> Tensor:
        place = sum(
            (axis + 1) * torch.arange(size).view(*[-1 if axis == other else 1 for other in range(5)])
            for axis, size in enumerate(image.shape)
            if axis > 1
        )
        return torch.cat([image[:, :1] * place, image[:, :1] - place], dim=1)


def blend_whole(member, image: Tensor, patch, overlap: float, axes=()) -> Tensor:
    """The straightforward computation: padded image, whole sums, divided at the end."""
    short = [max(0, edge - size) for edge, size in zip(patch, image.shape[1:])]
    pads = [amount for n in reversed(short) for amount in (n // 2, n - n // 2)]
    padded = functional.pad(image, pads)
    plan, weights = plan_windows(padded.shape[1:], patch, overlap), gaussian_weights(patch)
    total, sums = 0, torch.zeros(padded.shape[1:])
    for start in product(*plan.starts):
        window = tuple(slice(a, a + edge) for a, edge in zip(start, patch))
        part, flips = padded[(slice(None), *window)][None], []
        for chosen in (c for n in range(len(axes) + 1) for c in combinations([a + 2 for a in axes], n)):
            flips.append(member(part.flip(chosen)).flip(chosen)[0])
        if isinstance(total, int):
            total = torch.zeros((len(flips[0]), *padded.shape[1:]))
        total[(slice(None), *window)] += torch.stack(flips).mean(0) * weights
        sums[window] += weights
    crop = tuple(slice(n // 2, n // 2 + size) for n, size in zip(short, image.shape[1:]))
    return (total / sums)[(slice(None), *crop)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 13)] * 3),
    patch=st.tuples(*[st.integers(1, 7)] * 3),
    overlap=st.floats(0, 0.8),
    batch=st.integers(1, 5),
    axes=st.sampled_from([(), (1,), (0, 2)]),
)
def test_slabs_together_equal_blending_the_whole(shape, patch, overlap: float, batch: int, axes):
    image = noise(1, *shape)
    plan = plan_windows(shape, patch, overlap)
    ensemble = Ensemble([Ramps()], axes)
    stops = []

    def watched():
        for slab in stream_logits(ensemble, image, plan, window_batch=batch):
            assert slab.start == (stops[-1] if stops else 0) < slab.stop
            assert slab.stop - slab.start <= min(patch[plan.axis], shape[plan.axis])
            stops.append(slab.stop)
            yield slab

    found = collect(watched(), plan.shape)
    assert stops[-1] == shape[plan.axis]
    torch.testing.assert_close(found, blend_whole(Ramps(), image, patch, overlap, axes), rtol=1e-4, atol=1e-4)


def test_a_2d_network_streams_slices():
    network, image = nn.Conv2d(1, 3, 3, padding=1), noise(1, 7, 6, 4)
    plan = plan_windows((7, 6, 4), (4, 4, 1), 0.5)
    member = partial(forward, network, dims=2)
    slabs = []
    for slab in stream_logits(Ensemble([member]), image, plan, window_batch=4):
        slabs.append((slab.start, slab.stop, tuple(slab.values.shape)))
    assert slabs == [(k, k + 1, (3, 1, 7, 6)) for k in range(4)]


def test_an_image_in_half_precision_is_converted_window_by_window():
    image = noise(1, 9, 8, 7).half()
    found = predict_logits([Ramps()], image, (6, 4, 5), dims=3, overlap=0.5)
    expected = predict_logits([Ramps()], image.float(), (6, 4, 5), dims=3, overlap=0.5)
    assert torch.equal(found, expected)


def test_a_buffer_in_a_file_gives_the_same_bits(tmp_path: Path):
    image = noise(1, 12, 8, 7)
    plan = plan_windows(image.shape[1:], (6, 4, 5), 0.5)
    ensemble = Ensemble([Ramps()])
    whole = collect(stream_logits(ensemble, image, plan), plan.shape)
    rolling = Rolling(plan, CPU, tmp_path)
    assert torch.equal(collect(stream_logits(ensemble, image, plan, rolling=rolling), plan.shape), whole)
    assert not list(tmp_path.iterdir())


def test_a_head_after_blending_gives_the_logits_of_a_head_before():
    weight, bias = noise(5, 2), noise(5)
    image = noise(1, 12, 8, 7)
    plan = plan_windows(image.shape[1:], (6, 4, 5), 0.5)
    head = Head(weight, bias)

    def whole(stack: Tensor) -> Tensor:
        return torch.stack([head(features) for features in Ramps()(stack)])

    late = collect(stream_logits(Ensemble([Ramps()], (0,), head), image, plan), plan.shape)
    early = collect(stream_logits(Ensemble([whole], (0,)), image, plan), plan.shape)
    torch.testing.assert_close(late, early, rtol=1e-4, atol=1e-3)
    for slab in stream_logits(Ensemble([Ramps()], (0,), head), image, plan):
        torch.testing.assert_close(slab.logits()[:, 1], slab.plane(1))


def test_outside_the_box_lies_what_the_caller_says():
    image = noise(1, 20, 5, 6)
    plan = plan_windows(image.shape[1:], (4, 4, 4), 0.5, box=(slice(9, 14), slice(0, 5), slice(0, 3)))
    found = collect(stream_logits(Ensemble([Ramps()]), image, plan, outside=(7.0, -7.0)), plan.shape)
    inside = torch.zeros(plan.shape, dtype=torch.bool)
    inside[9:14, :, :4] = True
    assert (found[0][~inside] == 7).all() and (found[1][~inside] == -7).all()
    assert (found[:, inside].abs() != 7).all()


def test_what_a_box_cuts_off_is_outside_also_where_no_window_is_saved():
    image = noise(1, 20, 8, 8)
    plan = plan_windows(image.shape[1:], (8, 8, 8), 0.5, box=(slice(1, 20), slice(0, 8), slice(0, 8)))
    assert len(plan) == len(plan_windows(image.shape[1:], (8, 8, 8), 0.5))
    head = Head(torch.tensor([[9.0], [0.0], [0.0]]), torch.tensor([0.0, 0.0, 5.0]))  # no features: class 2
    ensemble = Ensemble([lambda stack: torch.ones_like(stack)], head=head)
    found = collect(stream_logits(ensemble, image, plan, outside=(10, -10, -10)), plan.shape)
    assert found[:, 0, 3, 3].tolist() == [10, -10, -10] and found[:, 1, 3, 3].tolist() == [9, 0, 5]


def test_a_box_that_cuts_nothing_gives_the_same_bits():
    image = noise(1, 12, 8, 7)
    plan = plan_windows(image.shape[1:], (6, 4, 5), 0.5)
    boxed = plan_windows(image.shape[1:], (6, 4, 5), 0.5, box=(slice(0, 12), slice(0, 8), slice(0, 7)))
    whole, found = (
        collect(stream_logits(Ensemble([Ramps()]), image, one, outside=(1.0, 2.0)), one.shape)
        for one in (plan, boxed)
    )
    assert torch.equal(found, whole)


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def constant(*values: float):
    return lambda stack: torch.tensor(values).view(1, -1, 1, 1, 1).expand(len(stack), -1, *stack.shape[2:])


def test_disagreement_is_half_the_l1_distance_from_the_mean_probability():
    certain, opposite = constant(50.0, 0.0), constant(0.0, 50.0)
    plan = plan_windows((9, 4, 5), (6, 4, 5), 0.5)
    image = noise(1, 9, 4, 5)
    for members, expected in (((certain, certain), 0.0), ((certain, opposite), 0.5)):
        for slab in stream_logits(Ensemble(members, activation=softmax), image, plan):
            assert slab.values.shape[0] == 2 and slab.disagreement is not None
            torch.testing.assert_close(slab.disagreement, torch.full_like(slab.disagreement, expected))


def test_mirrored_views_can_disagree_too():
    plan = plan_windows((6, 4, 5), (6, 4, 5), 0.5)
    ensemble = Ensemble([Ramps()], (0,), activation=softmax)
    (slab,) = stream_logits(ensemble, torch.ones(1, 6, 4, 5), plan)
    assert slab.disagreement is not None and float(slab.disagreement.max()) > 0.1


def test_a_late_head_belongs_to_a_single_member():
    head = Head(noise(2, 2), noise(2))
    with pytest.raises(ValueError, match="single member"):
        Ensemble([Ramps(), Ramps()], head=head)
