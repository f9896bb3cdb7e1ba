"""SegFormer: its stages on a grid, published weights, and equality with the reference implementation."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from medseg.core.errors import CheckpointError, ConfigError
from medseg.models import MODELS
from medseg.models.segformer_stages import VARIANTS, Size, plan_stages
from medseg.models.segformer_weights import load_huggingface
from tests.models.atrous_grids import (
    THICK_SLICES,
    count,
    even_grid,
    export_difference,
    flat_grid,
    overfit,
    slice_difference,
    traced,
)

TINY = Size((8, 16, 24, 32), (2, 1, 1, 2), heads=(1, 2, 3, 4), decoder=20)


# Xie et al. 2021, table 1, gives 3.8, 13.7, 27.5, 47.3, 64.1 and 84.7 million with the head of 150 classes.
@pytest.mark.parametrize(
    ("variant", "millions"),
    [("b0", 3.75), ("b1", 13.72), ("b2", 27.46), ("b3", 47.34), ("b4", 64.11), ("b5", 84.71)],
)
def test_variants_have_the_published_weights(variant, millions):
    assert round(count("segformer", even_grid(2), 3, 150, variant=variant) / 1e6, 2) == millions


@pytest.fixture
def reference(monkeypatch) -> SegformerForSemanticSegmentation:
    """The other implementation, small and random, with the statistics of a trained norm."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=TINY.channels,
        depths=TINY.depths,
        num_attention_heads=TINY.heads,
        decoder_hidden_size=TINY.decoder,
        num_labels=5,
    )
    theirs = SegformerForSemanticSegmentation(config).eval()
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.2)
    return theirs


def build_tiny(channels: int = 3, classes: int = 5, **options):
    return MODELS["segformer"](channels, classes, even_grid(2), variant="tiny", **options).eval()


def name_as_in_files(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout of published files, which transformers 5 renames as it loads them."""
    rules = [
        (r"\.stages\.(\d)\.patch_embeddings\.", r".encoder.patch_embeddings.\1."),
        (r"\.stages\.(\d)\.blocks\.", r".encoder.block.\1."),
        (r"\.stages\.(\d)\.layer_norm\.", r".encoder.layer_norm.\1."),
        ("attention.q_proj", "attention.self.query"),
        ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
        ("attention.sequence_reduction.sequence_reduction", "attention.self.sr"),
        ("attention.sequence_reduction.layer_norm", "attention.self.layer_norm"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc", "mlp.dense"),
        ("layernorm_before", "layer_norm_1"),
        ("layernorm_after", "layer_norm_2"),
        ("linear_projections", "linear_c"),
    ]
    renamed = {}
    for name, value in state.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        renamed[name] = value
    return renamed


@torch.no_grad()
@pytest.mark.parametrize("rename", [dict, name_as_in_files])
def test_weights_in_hugging_face_layout_give_the_same_logits(reference, rename):
    ours = build_tiny(norm="batch")
    assert load_huggingface(ours, rename(reference.state_dict())) == ()
    image = torch.randn(2, 3, 64, 96)
    logits = ours.net.classifier(image, ours.net.head(ours.net.encoder(image)))
    expected = reference(image).logits
    assert logits.shape == expected.shape == (2, 5, 16, 24)
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= 1e-4


@torch.no_grad()
def test_one_channel_gives_what_three_equal_ones_gave(reference):
    colour, grey = build_tiny(norm="batch"), build_tiny(channels=1, norm="batch")
    for net in (colour, grey):
        load_huggingface(net, reference.state_dict())
    image = torch.randn(1, 1, 64, 64)
    assert torch.allclose(grey(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-4)


def test_what_has_no_counterpart_is_named_and_kept(reference):
    net = build_tiny(classes=2)
    before = net.net.classifier.score.weight.clone()
    kept = load_huggingface(net, reference.state_dict())
    assert kept == ("head.norm.weight", "head.norm.bias", "classifier.score.weight", "classifier.score.bias")
    assert torch.equal(net.net.classifier.score.weight, before)


def test_an_encoder_alone_can_be_loaded(reference):
    net = build_tiny().net
    kept = load_huggingface(net, reference.segformer.state_dict())
    assert {name.split(".")[0] for name in kept} == {"head", "classifier"}


def test_weights_of_another_variant_are_refused(reference):
    with pytest.raises(CheckpointError, match=r"encoder\.stages") as raised:
        load_huggingface(MODELS["segformer"](3, 5, even_grid(2), size="nano"), reference.state_dict())
    assert raised.value.code == "MODEL_MISFIT"


def test_weights_are_refused_by_another_network(reference):
    with pytest.raises(CheckpointError, match="no `segformer`"):
        load_huggingface(MODELS["fcn"](3, 5, even_grid(2), size="nano"), reference.state_dict())


def test_stages_of_a_deep_grid_are_the_published_ones():
    stages = plan_stages(even_grid(2))
    assert [stage.stride[0] for stage in stages] == [4, 2, 2, 2]
    assert [stage.patch[0] for stage in stages] == [7, 3, 3, 3]
    assert [stage.reduction[0] for stage in stages] == [8, 4, 2, 1]


def test_a_small_patch_begins_with_tokens_of_two_voxels_and_ends_with_four_a_side():
    stages = plan_stages(even_grid(3, 4, 32))
    assert [stage.stride[0] for stage in stages] == [2, 2, 2, 1]
    assert [stage.reduction[0] for stage in stages] == [4, 2, 1, 1]


def test_thick_slices_are_kept_apart_until_the_grid_mixes_them():
    stages = plan_stages(THICK_SLICES)
    assert [stage.stride for stage in stages] == [(1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 1, 1)]
    assert [stage.kernel[0] for stage in stages] == [1, 3, 3, 3]
    assert [stage.patch for stage in stages] == [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert [stage.reduction for stage in stages] == [(1, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1)]


@pytest.mark.parametrize(("wanted", "first"), [(4, (4, 4, 4)), ([1, 4, 2], (1, 4, 2))])
def test_patch_stride_is_chosen_for_all_axes_or_each(wanted, first):
    net = MODELS["segformer"](1, 2, THICK_SLICES, size="nano", patch_stride=wanted).eval()
    tokens = net.net.encoder(torch.randn(1, 1, 16, 64, 64))[0]
    assert tokens.shape[1:-1] == tuple(n // step for n, step in zip((16, 64, 64), first))


@pytest.mark.parametrize("wanted", [0, (2, 2)])
def test_an_impossible_patch_stride_is_refused(wanted):
    with pytest.raises(ConfigError) as raised:
        plan_stages(THICK_SLICES, patch_stride=wanted)
    assert raised.value.code == "PATCH_STRIDE"


@torch.no_grad()
def test_tokens_attend_within_their_slice_where_the_grid_keeps_slices_apart():
    net = MODELS["segformer"](1, 2, flat_grid(even_grid(2, 4, 32)), size="nano").eval()
    image = torch.randn(1, 1, 3, 32, 32)
    changed = image.clone()
    changed[:, :, 1] += 1
    before, after = net.net.encoder(image)[-1], net.net.encoder(changed)[-1]
    assert (before == after).flatten(2).all(2).tolist() == [[True, False, True]]


@torch.no_grad()
def test_tokens_attend_to_the_whole_patch_where_the_grid_is_even():
    net = MODELS["segformer"](1, 2, even_grid(3, 4, 32), size="nano").eval()
    attention = net.net.encoder.stages[0].blocks[0].attention
    tokens = torch.randn(1, 8, 8, 8, 8)
    changed = tokens.clone()
    changed[0, 0, 0, 0] += 1
    moved = (attention(tokens) - attention(changed)).abs().amax(-1)
    assert (moved > 0).float().mean() > 0.95


@pytest.mark.parametrize("dims", [2, 3])
def test_fine_channels_give_logits_at_the_resolution_of_the_image(dims):
    net = MODELS["segformer"](1, 2, even_grid(dims, 4, 32), size="nano", fine_channels=4).eval()
    image = torch.randn(1, 1, *(32,) * dims)
    assert net.net.classifier(image, net.net.head(net.net.encoder(image))).shape == (1, 2, *(32,) * dims)


def test_stochastic_depth_grows_with_depth_and_is_silent_in_evaluation():
    net = MODELS["segformer"](1, 2, even_grid(2, 4, 32), size="nano", drop_path=0.6)
    drops = [block.drop for stage in net.net.encoder.stages for block in stage.blocks]
    assert drops == pytest.approx([0, 0.2, 0.4, 0.6])
    image = torch.randn(4, 1, 32, 32)
    assert torch.equal(net.eval()(image), net(image))
    assert not torch.equal(net.train()(image), net(image))


def test_stochastic_depth_keeps_the_mean():
    net = MODELS["segformer"](1, 2, even_grid(2, 4, 32), size="nano", drop_path=0.5).train()
    torch.manual_seed(0)
    kept = net.net.encoder.stages[-1].blocks[-1]._skip(torch.ones(4000, 2, 1))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_depth_1_kernels_give_the_2d_network_slice_by_slice():
    assert slice_difference("segformer", {"fine_channels": 4}, edge=32) < 1e-5


@pytest.mark.parametrize("fine_channels", [0, 4])
def test_two_cases_are_overfitted(fine_channels):
    assert overfit("segformer", 50, fine_channels=fine_channels) > 0.98


@traced
def test_openvino_gives_the_same_logits():
    net = MODELS["segformer"](1, 2, even_grid(3, 4, 16), size="nano", fine_channels=4)
    assert export_difference(net, torch.randn(1, 1, 13, 11, 16)) < 1e-4


@torch.no_grad()
def test_slices_kept_apart_do_not_depend_on_their_number():
    net = MODELS["segformer"](1, 2, flat_grid(even_grid(2, 4, 32)), size="nano", norm="batch").eval()
    image = torch.randn(1, 1, 4, 32, 32)
    assert torch.allclose(net(image)[:, :, :2], net(image[:, :, :2]), atol=1e-5)


def test_an_unknown_variant_is_named():
    with pytest.raises(ConfigError, match="`b6`"):
        MODELS["segformer"](1, 2, even_grid(2), variant="b6")
