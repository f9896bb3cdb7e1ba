"""dataset.json: channels, labels and overlapping regions as settings of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from medseg.core.errors import CheckpointError
from medseg.data.settings import Channel, Data, Region
from medseg.inference.damage import damaged
from medseg.inference.nnunet.plans import refuse

NORMALIZE = {"CTNormalization": "ct", "ZScoreNormalization": "zscore"}


def read_data(tree: Mapping[str, Any], schemes: Sequence[str]) -> Data:
    """Return what the model takes and what it finds.

    Files `<id>_0000`, `<id>_0001`, ... of one folder are the channels of a case.

    Args:
        tree: dataset.json.
        schemes: Normalisation per channel.

    Raises:
        CheckpointError: MODEL_DAMAGED; MODEL_UNSUPPORTED for labels with gaps, or regions that hide some.
    """
    names = tree.get("channel_names", tree.get("modality"))
    labels = tree.get("labels")
    if not isinstance(names, dict) or not isinstance(labels, dict) or len(names) != len(schemes):
        raise damaged("dataset.json")
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
        ignore = None if labels.get("ignore") is None else int(labels["ignore"])
        found = {str(name): _values(value) for name, value in labels.items() if name != "ignore"}
    except (TypeError, ValueError) as error:
        raise damaged("dataset.json") from error
    try:
        return Data.model_validate(
            {
                "channels": _describe_channels(ordered, schemes),
                "labels": _name_labels(found),
                "regions": _find_regions(found, tree.get("regions_class_order")),
                "ignore_label": ignore,
            }
        )
    except ValidationError as error:
        raise refuse(f"labels that cannot be used: {error.errors()[0]['msg']}") from error


def _values(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value) if isinstance(value, list) else (int(value),)


def _describe_channels(names: Sequence[str], schemes: Sequence[str]) -> dict[str, Channel]:
    return {
        (name if names.count(name) == 1 else f"{name}_{index}"): Channel.model_validate(
            {"normalize": NORMALIZE.get(scheme, "none"), "pattern": f"*_{index:04d}.*"}
        )
        for index, (name, scheme) in enumerate(zip(names, schemes))
    }


def _name_labels(found: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Return stored value -> name; a value that no label has for itself is called after its number."""
    values = sorted({one for value in found.values() for one in value} | {0})
    if values != list(range(len(values))):
        raise refuse(f"labels with gaps ({values})")
    own = {value[0]: name for name, value in found.items() if len(value) == 1}
    return {value: own.get(value, f"label {value}") for value in values if value}


def _find_regions(found: Mapping[str, tuple[int, ...]], order: Any) -> list[Region]:
    """Return the regions in the order that they are painted in; none where labels exclude each other."""
    if all(len(value) == 1 for value in found.values()):
        return []
    foreground = [(name, value) for name, value in found.items() if set(value) != {0}]
    if not isinstance(order, list) or len(order) != len(foreground):
        raise CheckpointError(
            "dataset.json has regions, and no `regions_class_order` that fits them",
            hint="copy the model folder again",
            code="MODEL_DAMAGED",
        )
    return [
        Region(name=name, covers=value, paints=int(paints))
        for (name, value), paints in zip(foreground, order)
    ]
