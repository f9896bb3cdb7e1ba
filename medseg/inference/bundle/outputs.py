"""A bundle's postprocessing: how its outputs become a mask, from MONAI's transforms that are known.

Their order with `Invertd` is not followed: logits go back to the scan's grid first, and are decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.core.settings import Builder
from medseg.inference.bundle.config import Tree, find, list_calls, read_literal, refuse

PRED = "pred"  # MONAI's name of what the network puts out, `Keys.PRED`
PLACES = [f"{stage}{owner}postprocessing" for stage in ("", "validate::") for owner in ("evaluator::", "")]
IDLE = ("EnsureTyped", "ToTensord", "ToDeviced", "Identityd", "SaveImaged")
CONNECTIVITY = {None: 26, 1: 6, 2: 18, 3: 26}
NEUTRAL = {"keys", "allow_missing_keys"}


@dataclass
class Outputs:
    """What is made of the outputs.

    Args:
        activation: "softmax", "sigmoid", or "": logits as they are.
        decision: "argmax", "threshold", or "": not said.
        postprocess: Steps on the mask.
    """

    activation: str = ""
    decision: str = ""
    postprocess: list[Builder] = field(default_factory=list)

    @property
    def are_regions(self) -> bool:
        """Whether each output is decided on alone, not all against each other."""
        return (self.decision or ("threshold" if self.activation == "sigmoid" else "argmax")) == "threshold"


def read_outputs(tree: Tree, n_outputs: int) -> Outputs:
    """Return how outputs become a mask; where nothing is said, the largest wins.

    Raises:
        CheckpointError: BUNDLE_UNSUPPORTED, with the transform or the option that is not known.
    """
    found = Outputs()
    for name, entry in _list_steps(tree):
        if name == "Invertd":
            if found.postprocess:
                raise refuse("Invertd after KeepLargestConnectedComponentd")
            continue
        if name not in READERS:
            raise refuse(f"the transform `{name}` after the network")
        options = _read_options(tree, name, entry)
        if options is not None:
            defaults, read = READERS[name]
            if unknown := set(options) - set(defaults):
                raise refuse(f"the option `{min(unknown)}` of {name}")
            read(found, **{**defaults, **options})
    if found.are_regions and found.activation != "sigmoid":
        raise refuse("a threshold of outputs that no sigmoid made probabilities")
    if found.are_regions and n_outputs > 1:
        raise refuse("several outputs that may overlap, in an order that it does not say")
    if not found.are_regions and n_outputs == 1:
        raise refuse("one output that no sigmoid makes a structure")
    return found


def _list_steps(tree: Tree) -> Iterator[tuple[str, Mapping[str, Any]]]:
    entry = find(tree, *PLACES)
    if entry is not None:
        return list_calls(tree, entry, "postprocessing", IDLE)
    # Under another name it would be missed, and the mask be another one.
    if other := [key for key, value in tree.items() if key.startswith("post") and value is not None]:
        raise refuse(f"`{other[0]}` instead of `postprocessing`")
    return iter(())


def _read_options(tree: Tree, name: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options for the network's output; None where the step is for other keys alone."""
    keys = read_literal(tree, entry.get("keys", PRED), f"{name}.keys")
    keys = keys if isinstance(keys, list) else [keys]
    if PRED not in keys:
        return None
    given = {key: value for key, value in entry.items() if key not in NEUTRAL and key[0] != "_"}
    options = {key: read_literal(tree, value, f"{name}.{key}") for key, value in given.items()}
    index = keys.index(PRED)
    for key, value in options.items():
        if key != "applied_labels" and isinstance(value, list) and len(value) == len(keys):
            options[key] = value[index]
    return options


def _read_activation(found: Outputs, *, sigmoid: Any, softmax: Any, other: Any) -> None:
    if other is not None or {type(sigmoid), type(softmax)} != {bool} or (sigmoid and softmax):
        raise refuse("Activationsd with something else than either sigmoid or softmax")
    if found.activation or found.decision:
        raise refuse("Activationsd after Activationsd or AsDiscreted")
    found.activation = "sigmoid" if sigmoid else "softmax" if softmax else ""


def _read_decision(found: Outputs, *, argmax: Any, threshold: Any, rounding: Any, to_onehot: Any) -> None:
    """`to_onehot` tells the same mask with a channel per label."""
    if rounding is not None or type(argmax) is not bool or (argmax and threshold is not None):
        raise refuse("AsDiscreted with something else than either argmax or threshold")
    if threshold is not None and threshold != 0.5:
        raise refuse(f"AsDiscreted with the threshold {threshold}")
    if found.decision:
        raise refuse("several AsDiscreted")
    found.decision = "argmax" if argmax else "" if threshold is None else "threshold"


def _read_largest(
    found: Outputs,
    *,
    applied_labels: Any,
    independent: Any,
    connectivity: Any,
    num_components: Any,
    is_onehot: Any,
) -> None:
    """`keep_largest` is the same, but that it keeps both where two components are equally large."""
    if not found.decision:
        raise refuse("KeepLargestConnectedComponentd before AsDiscreted")
    labels = (
        applied_labels if isinstance(applied_labels, list) or applied_labels is None else [applied_labels]
    )
    is_known = num_components == 1 and connectivity in [*CONNECTIVITY]
    is_apart = independent is True or (labels is not None and len(labels) == 1)
    if not is_known or not is_apart or not all(type(n) is int and n > 0 for n in labels or []):
        raise refuse("KeepLargestConnectedComponentd with something else than each label's one component")
    options = {"labels": labels, "connectivity": CONNECTIVITY[connectivity]}
    found.postprocess.append(Builder(name="keep_largest", options=options))


READERS: dict[str, tuple[dict[str, Any], Callable[..., None]]] = {
    "Activationsd": ({"sigmoid": False, "softmax": False, "other": None}, _read_activation),
    "AsDiscreted": (
        {"argmax": False, "threshold": None, "rounding": None, "to_onehot": None},
        _read_decision,
    ),
    "KeepLargestConnectedComponentd": (
        {
            "applied_labels": None,
            "independent": True,
            "connectivity": None,
            "num_components": 1,
            "is_onehot": None,
        },
        _read_largest,
    ),
}
