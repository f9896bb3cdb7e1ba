"""What is read of models of other software, and the error for what is not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medseg.core.errors import CheckpointError


def damaged(what: str) -> CheckpointError:
    """Return the error for a file, or a part of one, that cannot be what it should be."""
    return CheckpointError(
        f"{what} is missing or damaged", hint="copy the model folder again", code="MODEL_DAMAGED"
    )


def read_tree(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CheckpointError: MODEL_DAMAGED.
    """
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path.name) from error
    if not isinstance(tree, dict):
        raise damaged(path.name)
    return tree
