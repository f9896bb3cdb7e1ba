"""An nnU-Net results folder as a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medseg.core.files import sha256_of, sha256_of_file
from medseg.data.plan import Normalization, Plan
from medseg.data.settings import Data
from medseg.inference.damage import damaged, read_tree
from medseg.inference.nnunet.blending import blend_weights
from medseg.inference.nnunet.folder import Results
from medseg.inference.nnunet.intensities import CT_PROPERTIES, SCHEMES, Scheme
from medseg.inference.nnunet.labels import read_data
from medseg.inference.nnunet.network import build_network, load_weights
from medseg.inference.nnunet.plans import Configuration, Plans, read_plans, refuse
from medseg.inference.nnunet.preparation import Preparation
from medseg.inference.nnunet.unpickle import load_checkpoint
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel


def load_results(results: Results, device: torch.device, folds: Sequence[int] | None = None) -> TrainedModel:
    """Load what nnU-Net trained; masks are those of its own command.

    Args:
        results: Of `find_results`.
        device: Where the networks go.
        folds: Which, in the first stage of a cascade too; None: those that `results` names, or all.

    Raises:
        CheckpointError: Missing, damaged, unsafe to read, or of a kind that is not supported.
    """
    files = results.list_checkpoints(folds)
    plans, first = read_plans(results.folder / "plans.json"), load_checkpoint(files[0])
    name, mirror_axes = _read_arguments(first)
    configuration = plans.configure(name)
    data = read_data(read_tree(results.folder / "dataset.json"), configuration.normalization_schemes)
    previous = None
    if configuration.previous_stage is not None:
        previous = load_results(results.find_previous(configuration.previous_stage), device, folds)
    n_inputs = len(data.channels) + (len(previous.data.labels) if previous else 0)
    networks = []
    for index, file in enumerate(files):
        checkpoint = load_checkpoint(file) if index else first
        network = build_network(configuration, n_inputs, data.n_outputs)
        load_weights(network, _read_weights(checkpoint), str(checkpoint.get("trainer_name", "unknown")))
        networks.append(network.eval().to(device))
    decisive = [sha256_of_file(results.folder / name) for name in ("plans.json", "dataset.json")]
    digest = sha256_of([name, *decisive, *map(sha256_of_file, files), previous.sha256 if previous else ""])
    return TrainedModel(
        plans.dataset_name,
        data,
        _make_plan(configuration, data, mirror_axes),
        Infer(mirror=bool(mirror_axes)),
        tuple(networks),
        digest,
        digest,
        prepare=_make_preparation(plans, configuration, previous),
        blend=blend_weights,
        previous=previous,
    )


def _read_arguments(checkpoint: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return the configuration's name and the axes that may be mirrored."""
    arguments, axes = checkpoint.get("init_args"), checkpoint.get("inference_allowed_mirroring_axes")
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("configuration"), str):
        raise damaged("the entry `init_args` of the checkpoint")
    mirror_axes = tuple(axes or ())
    if not set(mirror_axes) <= {0, 1, 2}:
        raise damaged("the entry `inference_allowed_mirroring_axes` of the checkpoint")
    return arguments["configuration"], mirror_axes


def _read_weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = checkpoint.get("network_weights")
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise damaged("the entry `network_weights` of the checkpoint")
    return weights


def _make_plan(configuration: Configuration, data: Data, mirror_axes: tuple[int, ...]) -> Plan:
    """Return the plan as the predictor reads it, on the axes that the network works on."""
    kernels, strides = configuration.arch_kwargs.kernel_sizes, configuration.arch_kwargs.strides
    return Plan(
        dims=configuration.dims,
        spacing_mm=_triple(configuration.spacing),
        patch=_triple(configuration.patch_size),
        batch_size=1,
        strides=tuple(_triple(step) for step in strides),
        kernels=tuple(_triple(size) for size in kernels),
        features=configuration.arch_kwargs.features_per_stage,
        normalization=tuple(Normalization(channel.normalize) for channel in data.channels.values()),
        mirror_axes=mirror_axes,
        rotate_axes=(),
        rotate_degrees=0.0,
        reasons={"all": "as nnU-Net planned it"},
    )


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return three values; a network that sees slices has one voxel along the third axis."""
    first, second, third = (*values, 1)[:3]
    return first, second, third


def _make_preparation(
    plans: Plans, configuration: Configuration, previous: TrainedModel | None
) -> Preparation:
    schemes = []
    masked = configuration.use_mask_for_norm
    if len(masked) != len(configuration.normalization_schemes):
        raise damaged("the entry `use_mask_for_norm` of the plans")
    for channel, (name, is_masked) in enumerate(zip(configuration.normalization_schemes, masked)):
        properties = plans.foreground_intensity_properties_per_channel.get(channel, {})
        if name not in SCHEMES:
            raise refuse(f"the normalisation `{name}`")
        if name == "CTNormalization" and not set(CT_PROPERTIES) <= set(properties):
            raise damaged("the entry `foreground_intensity_properties_per_channel` of the plans")
        schemes.append(Scheme(name, is_masked, properties))
    return Preparation(
        plans.image_reader_writer,
        plans.transpose_forward,
        configuration.spacing,
        tuple(schemes),
        image=configuration.resampling_data,
        mask=configuration.resampling_seg,
        logits=configuration.resampling_probabilities,
        previous=previous,
    )
