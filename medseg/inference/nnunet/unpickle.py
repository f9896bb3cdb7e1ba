"""Read a checkpoint that somebody else pickled, without running anything of it.

A pickle may call any function there is. torch's restricted unpickler (`weights_only`) knows tensors and plain
containers; checkpoints of nnU-Net also hold numpy scalars (losses, the best score). For these there are
stand-ins below, so that not even numpy's own reconstruction runs on what a file says. Whatever else a file
asks for is refused, and named.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.core.errors import CheckpointError

KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
ASKED = re.compile(r"GLOBAL (\S+)|unrecognized function (.+?)(?:\.|$)|class (\S+) ", re.MULTILINE)


class _Kind:
    """Stands in for `numpy.dtype`: one of the plain numbers of `KINDS`."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in KINDS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r}) is no plain number")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = (">" if state[1] == ">" else "<") + self.code


def _scalar(kind: _Kind, content: bytes) -> float | int | bool:
    """Stand in for numpy's reconstruction of a scalar."""
    if not isinstance(kind, _Kind) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("GLOBAL numpy.core.multiarray.scalar of no plain number")
    number: float | int | bool = np.frombuffer(content, kind.code, count=1)[0].item()
    return number


STAND_INS: list[Any] = [
    (_Kind, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),  # numpy 2
]


def load_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of `torch.save`; where its format allows, tensors stay on disk until used.

    Raises:
        CheckpointError: CHECKPOINT_UNSAFE where it asks for what is not on the list, MODEL_DAMAGED where it
            cannot be read.
    """
    try:
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of pickle protocols that torch does not write itself
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refuse(path, str(error)) from None
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as a checkpoint ({type(error).__name__})",
            hint="copy it again",
            code="MODEL_DAMAGED",
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path.name} holds no checkpoint", hint="copy it again", code="MODEL_DAMAGED")
    return content


def _refuse(path: Path, text: str) -> CheckpointError:
    match = ASKED.search(text)
    asked = next((group for group in match.groups() if group), "") if match else ""
    wanted = f"asks for `{asked}`" if asked else "holds pickled instructions"
    return CheckpointError(
        f"{path.name} {wanted}, which a model does not need",
        hint="do not use this file; ask where it comes from",
        code="CHECKPOINT_UNSAFE",
    )
