"""A MONAI bundle as a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from medseg.core.files import sha256_of, sha256_of_file
from medseg.data.plan import Normalization, Plan
from medseg.data.settings import Channel, Data, Region
from medseg.inference.bundle.config import Tree, find, read_literal, refuse, target_of
from medseg.inference.bundle.network import build_network, load_weights
from medseg.inference.bundle.outputs import Outputs, read_outputs
from medseg.inference.bundle.transforms import Preparation, read_preparation
from medseg.inference.damage import damaged, read_tree
from medseg.inference.nnunet.unpickle import load_checkpoint
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel

METADATA, WEIGHTS = "configs/metadata.json", "models/model.pt"
OVERLAP = 0.25  # MONAI's default


def is_bundle(path: Path) -> bool:
    """Whether the folder is a bundle."""
    return (path / METADATA).is_file()


def load_bundle(path: Path, device: torch.device) -> TrainedModel:
    """Load a bundle's network, weights, preprocessing and windows.

    Args:
        path: Its folder, with `configs` and `models`.
        device: Where the network goes.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED with the name of what is not known; damaged, or unsafe to read.
    """
    configs = [path / "configs" / name for name in ("inference.json", "train.json")]
    config = next((file for file in configs if file.is_file()), None)
    if config is None:
        raise refuse("a configuration other than inference.json or train.json")
    tree, about = read_tree(config), read_tree(path / METADATA)
    network, options = build_network(tree)
    load_weights(network, load_checkpoint(path / WEIGHTS))
    transforms = find(tree, "preprocessing", "validate::preprocessing")
    if transforms is None:
        raise refuse("a configuration without `preprocessing`")
    preparation = read_preparation(tree, transforms)
    outputs = read_outputs(tree, int(options["out_channels"]))
    patch, infer, is_gaussian = _read_inferer(tree, int(options["spatial_dims"]))
    files = [config, path / METADATA, path / WEIGHTS]
    digest = sha256_of([sha256_of_file(file) for file in files])
    return TrainedModel(
        str(about.get("name") or "MONAI bundle"),
        _read_data(about, options, outputs),
        _make_plan(int(options["spatial_dims"]), preparation, patch),
        infer.model_copy(update={"postprocess": tuple(outputs.postprocess)}),
        (network.eval().to(device),),
        digest,
        digest,
        prepare=preparation,
        blend=None if is_gaussian else torch.ones,
    )


def _read_inferer(tree: Tree, dims: int) -> tuple[tuple[int, int, int], Infer, bool]:
    """Return window, settings, and whether the middle of a window weighs more than its edge."""
    entry = find(tree, "inferer", "validate::inferer")
    if entry is None or isinstance(entry, str) or target_of(entry) != "SlidingWindowInferer":
        raise refuse("an inferer other than SlidingWindowInferer")
    wanted = {"roi_size": None, "overlap": OVERLAP, "mode": "constant"}
    given = {
        key: read_literal(tree, entry.get(key, value), f"inferer.{key}") for key, value in wanted.items()
    }
    size, mode = given["roi_size"], str(given["mode"])
    if not isinstance(size, list) or len(size) != dims or any(type(n) is not int or n < 1 for n in size):
        raise refuse(f"windows of {size}")
    if mode not in ("constant", "gaussian"):
        raise refuse(f"the blending `{mode}`")
    first, second, third = (*size, 1)[:3]
    try:
        return (first, second, third), Infer(overlap=given["overlap"]), mode == "gaussian"
    except ValidationError as error:
        raise refuse(f"an overlap of {given['overlap']}") from error


def _read_data(about: Tree, options: Mapping[str, Any], outputs: Outputs) -> Data:
    """Return channels and labels from metadata.json."""
    network = about.get("network_data_format", {})
    try:
        (image,), (found,) = network["inputs"].values(), network["outputs"].values()
        n_inputs, n_outputs = int(options["in_channels"]), int(options["out_channels"])
        channels = [str(name) for name in image.get("channel_def", {}).values()]
        names = {int(key): str(name) for key, name in found["channel_def"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged("`network_data_format` in metadata.json") from error
    if len(set(channels)) != n_inputs:
        channels = [f"image {index}" for index in range(n_inputs)]
    # The background of a single structure has no output, but may have a name.
    counts = {n_outputs, n_outputs + outputs.are_regions}
    if sorted(names) not in [list(range(count)) for count in counts]:
        raise damaged("`channel_def` in metadata.json")
    labels = {value: name for value, name in names.items() if value}
    if outputs.are_regions and not labels:
        labels = {1: names[0]}
    regions = [Region(name=labels[1], covers=(1,), paints=1)] if outputs.are_regions else []
    try:
        return Data.model_validate(
            {
                "channels": {
                    name: Channel(normalize="none", pattern=f"*_{index:04d}.*")
                    for index, name in enumerate(channels)
                },
                "labels": labels,
                "regions": regions,
            }
        )
    except ValidationError as error:
        raise refuse(f"labels that cannot be used: {error.errors()[0]['msg']}") from error


def _make_plan(dims: int, preparation: Preparation, patch: tuple[int, int, int]) -> Plan:
    """Return the plan as the predictor reads it; levels are the network's own."""
    first, second, third = (*preparation.spacing_mm, 1.0, 1.0, 1.0)[:3]
    return Plan(
        dims=dims,
        spacing_mm=(first, second, third),
        patch=patch,
        batch_size=1,
        strides=((1, 1, 1),),
        kernels=((3, 3, 1 if dims == 2 else 3),),
        features=(),
        normalization=(Normalization("none"),),
        mirror_axes=(),
        rotate_axes=(),
        rotate_degrees=0.0,
        reasons={"all": "as the bundle says"},
    )
