"""nnU-Net's two networks, built of our own blocks and filled with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.inference.damage import damaged
from medseg.inference.nnunet.plans import Architecture, Configuration, refuse
from medseg.models.grid import Grid
from medseg.models.padding import PadToStride
from medseg.models.residual import ResidualEncoder
from medseg.models.stacked import StackedEncoder, StackedUNet

# Its modules keep every layer twice, and its decoder the encoder: the same weights under up to four names.
COPIES = (
    ("decoder.encoder.", "encoder."),
    (".all_modules.0.", ".conv."),
    (".all_modules.1.", ".norm."),
    (".all_modules.2.", ".norm."),  # where there is dropout in between
)
# Before an instance norm a bias has no effect.
NORMED_BIAS = re.compile(r"encoder\..*\.conv\.bias|decoder\.stages\..*\.conv\.bias")
RENAMED = (
    (re.compile(r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\."), r"encoder.stages.\1.\2."),
    (re.compile(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\."), r"encoder.stages.\1.\2."),
    (re.compile(r"encoder\.stem\.convs\.0\."), "encoder.stem."),
    (re.compile(r"(decoder\.stages\.\d+)\.convs\.(\d+)\."), r"\1.\2."),
    (re.compile(r"decoder\.transpconvs\."), "decoder.ups."),
)
DECODER = re.compile(r"(decoder\.(?:stages|ups|seg_layers))\.(\d+)\.")


def build_network(configuration: Configuration, in_channels: int, out_channels: int) -> nn.Module:
    """Return the network of a configuration, with weights drawn at random.

    Raises:
        CheckpointError: MODEL_UNSUPPORTED where our blocks cannot express it, MODEL_DAMAGED where its numbers
            contradict each other.
    """
    options = configuration.arch_kwargs
    is_residual = configuration.network == "ResidualEncoderUNet"
    counts = options.n_blocks_per_stage if is_residual else options.n_conv_per_stage
    _require_whole(options, counts)
    try:
        grid = Grid(
            dims=configuration.dims,
            patch=configuration.patch_size,
            spacing_mm=configuration.spacing,
            strides=options.strides,
            kernels=options.kernel_sizes,
            features=options.features_per_stage,
        )
    except ConfigError as error:
        raise refuse(f"a network that is not known: {error.message}") from error
    encoder: nn.Module
    if is_residual:
        encoder = ResidualEncoder(in_channels, grid, features=grid.features, blocks=counts)
    else:
        encoder = StackedEncoder(in_channels, grid, features=grid.features, convolutions=counts)
    net = StackedUNet(
        encoder,
        out_channels,
        grid,
        features=grid.features,
        convolutions=options.n_conv_per_stage_decoder[::-1],
    )
    return PadToStride(net, grid.total_stride)


def _require_whole(options: Architecture, counts: tuple[int, ...]) -> None:
    rows = (options.features_per_stage, options.kernel_sizes, options.strides, counts)
    decoder = options.n_conv_per_stage_decoder
    is_whole = all(len(row) == options.n_stages for row in rows) and len(decoder) == options.n_stages - 1
    if not is_whole or min((*counts, *decoder, *options.features_per_stage)) < 1:
        raise damaged("the architecture in plans.json")


def load_weights(network: nn.Module, weights: Mapping[str, Any], trainer: str) -> None:
    """Copy a checkpoint's `network_weights` into a network; each fits once, and none is left.

    Args:
        network: Of `build_network`; is filled.
        weights: nnU-Net's name -> tensor.
        trainer: For the message: some trainers change the network and do not say so in the plans.

    Raises:
        CheckpointError: MODEL_UNSUPPORTED.
    """
    try:
        network.load_state_dict({f"net.{name}": value for name, value in rename(weights).items()})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise refuse(f"another network than its plans say (trainer `{trainer}`: {lines[0][:120]})") from error


def rename(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights under our names: without copies, biases that norms cancel, and heads of coarse levels.

    Raises:
        CheckpointError: MODEL_UNSUPPORTED where copies differ.
    """
    own: dict[str, Tensor] = {}
    for name, value in weights.items():
        plain = name
        for copy, original in COPIES:
            plain = plain.replace(copy, original)
        if plain != name and (plain not in weights or not _is_same(value, weights[plain])):
            raise refuse(f"the weights `{name}`")
        if plain == name and not NORMED_BIAS.fullmatch(name):
            own[name] = value
    levels = 1 + max((int(m[2]) for name in own if (m := DECODER.match(name))), default=0)
    renamed = {}
    for name, value in own.items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        if match := DECODER.match(name):  # counted from the coarsest there, from the finest here
            level = levels - 1 - int(match[2])
            if match[1] == "decoder.seg_layers" and level:
                continue
            part = match[1].replace("seg_layers", "heads")
            name = f"{part}.{level}.{name[match.end() :]}"
        renamed[name] = value
    return renamed


def _is_same(one: Tensor, other: Tensor) -> bool:
    is_shared = one.data_ptr() == other.data_ptr() and one.shape == other.shape
    return is_shared or torch.equal(one, other)
