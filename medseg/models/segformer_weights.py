"""Weights in Hugging Face layout for the 2D `segformer`.

Nothing is downloaded here. NVIDIA's published weights (`nvidia/mit-b0` and its like) are for non-commercial
use only (NVIDIA Source Code License for SegFormer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medseg.core.errors import CheckpointError
from medseg.models.padding import PadToStride
from medseg.models.segformer_net import SegFormer

# (theirs, ours), applied in turn. The first of two names is that of files, the second that of transformers 5.
NAMES = (
    (r"^segformer\.", ""),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
    (r"\.patch_embeddings\.proj\.", ".embed.project."),
    (r"\.patch_embeddings\.layer_norm\.", ".embed.norm."),
    (r"^encoder\.block\.(\d)\.", r"stages.\1.blocks."),
    (r"^(?:encoder\.layer_norm\.(\d)|stages\.(\d)\.layer_norm)\.", r"stages.\1\2.norm."),
    (r"\.(?:layer_norm_1|layernorm_before)\.", ".norm_attention."),
    (r"\.(?:layer_norm_2|layernorm_after)\.", ".norm_mix."),
    (r"\.(?:self\.query|q_proj)\.", ".query."),
    (r"\.(?:self\.key|k_proj)\.", ".key."),
    (r"\.(?:self\.value|v_proj)\.", ".value."),
    (r"\.(?:output\.dense|o_proj)\.", ".out."),
    (r"\.attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)\.", ".attention.reduce."),
    (r"\.attention\.(?:self|sequence_reduction)\.layer_norm\.", ".attention.norm."),
    (r"\.mlp\.(?:dense1|fc1)\.", ".mix.expand."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mix.mix."),
    (r"\.mlp\.(?:dense2|fc2)\.", ".mix.contract."),
    (r"^stages\.", "encoder.stages."),
    (r"^decode_head\.(?:linear_c|linear_projections)\.(\d)\.proj\.", r"head.project.\1."),
    (r"^decode_head\.batch_norm\.", "head.norm."),
    (r"^decode_head\.classifier\.", "classifier.score."),
)
FUSE = "decode_head.linear_fuse.weight"


def load_huggingface(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy weights into a network of `segformer`, in place.

    The image may have another number of channels than the weights: each channel then takes their sum divided
    by that number, so that equal channels give what they gave. What fits nothing keeps its values: a
    classifier for other classes, and the head's norm where it is no batch norm.

    Args:
        network: Made by `segformer`, 2D, of the weights' variant, with a grid of six levels or more.
        state: As `state_dict()` of `SegformerForSemanticSegmentation` (or `SegformerModel`), or the file's.

    Returns:
        The names of the weights of `network` that kept their values.

    Raises:
        CheckpointError: `MODEL_MISFIT`: another network, or weights of another variant.
    """
    net = network.net if isinstance(network, PadToStride) else network
    if not isinstance(net, SegFormer):
        raise _misfit("the network is no `segformer`")
    own = net.state_dict()
    theirs = translate_names(state)
    stem = "encoder.stages.0.embed.project.weight"
    if stem in theirs and theirs[stem].shape[1] != own[stem].shape[1]:
        channels = own[stem].shape[1]
        theirs[stem] = theirs[stem].sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    if "head.norm.running_mean" not in own:
        theirs = {name: value for name, value in theirs.items() if not name.startswith("head.norm.")}
    fitting = {
        name: value for name, value in theirs.items() if name in own and value.shape == own[name].shape
    }
    kept = tuple(name for name in own if name not in fitting)
    if missing := [name for name in kept if name.startswith("encoder.")]:
        raise _misfit(
            f"{len(missing)} weights of the encoder have no counterpart, {missing[0]} to begin with"
        )
    net.load_state_dict(fitting, strict=False)
    return kept


def translate_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names, the fusing layer cut into the four stages' shares."""
    translated = {}
    for name, value in state.items():
        if name == FUSE:  # coarsest stage first
            for stage, share in zip((3, 2, 1, 0), torch.chunk(value.flatten(1), 4, dim=1)):
                translated[f"head.fuse.{stage}.weight"] = share
            continue
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)
        translated[name] = value
    return translated


def _misfit(message: str) -> CheckpointError:
    return CheckpointError(
        message,
        hint="make a 2D `segformer` of the weights' variant, on a grid of six levels",
        code="MODEL_MISFIT",
    )
