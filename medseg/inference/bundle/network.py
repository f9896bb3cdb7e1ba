"""A bundle's network: one of MONAI's by name, with literal arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medseg.inference.bundle.config import Tree, find, read_literal, refuse, target_of
from medseg.inference.damage import damaged

KNOWN = ("UNet", "BasicUNet", "DynUNet", "SegResNet", "SwinUNETR", "UNETR")
FORGOTTEN = {"img_size"}  # of SwinUNETR in bundles for MONAI below 1.5; its weights do not depend on it


def build_network(tree: Tree) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of `network_def`, with weights drawn at random, and all its arguments.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED, with the name or the argument that is not known.
    """
    from monai.networks import nets

    entry = find(tree, "network_def", "network")
    if entry is None:
        raise refuse("a configuration without `network_def`")
    if isinstance(entry, str):
        raise refuse(f"the expression `{entry[:60]}` for its network")
    name = target_of(entry)
    if name not in KNOWN:
        raise refuse(f"the network `{name}` (known: {', '.join(KNOWN)})")
    kind = getattr(nets, name)
    known = inspect.signature(kind).parameters
    given = {key: value for key, value in entry.items() if not key.startswith("_")}
    arguments = {key: read_literal(tree, value, f"{name}.{key}") for key, value in given.items()}
    arguments = {key: value for key, value in arguments.items() if key in known or key not in FORGOTTEN}
    if unknown := [key for key in arguments if key not in known]:
        raise refuse(f"the option `{unknown[0]}` of {name}")
    try:
        network: nn.Module = kind(**arguments)
        bound = inspect.signature(kind).bind(**arguments)
    except (TypeError, ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise damaged(f"the configuration of {name}") from error
    bound.apply_defaults()
    return network, dict(bound.arguments)


def load_weights(network: nn.Module, content: Mapping[str, Any]) -> None:
    """Fill a network with `model.pt`, which holds its weights or has them under `model` or `state_dict`.

    Raises:
        CheckpointError: MODEL_DAMAGED where they are another network's.
    """
    for name in ("model", "state_dict"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
    weights = {str(key).removeprefix("module."): value for key, value in content.items()}
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise damaged("model.pt")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise damaged("model.pt, which does not fit the network,") from error
