"""Where things are in an nnUNet_results folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import CheckpointError

CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class Results:
    """A trained configuration.

    Args:
        folder: Trainer__Plans__configuration.
        fold: The one that was named; None: all there are.
    """

    folder: Path
    fold: str | None = None

    def list_checkpoints(self, folds: Sequence[int] | None = None) -> list[Path]:
        """Return the checkpoints of the folds: of all but `fold_all`, unless there is no other.

        Raises:
            CheckpointError: MODEL_MISSING; UNKNOWN_FOLD of `folds`.
        """
        found = {path.parent.name: path for path in sorted(self.folder.glob(f"fold_*/{CHECKPOINT}"))}
        numbered = [name for name in found if name != "fold_all"]
        chosen = [self.fold] if self.fold else numbered or list(found)
        if folds is not None:
            chosen = [f"fold_{fold}" for fold in folds]
        if not chosen or any(name not in found for name in chosen):
            wanted = ", ".join(chosen) or "any fold"
            raise CheckpointError(
                f"there is no {CHECKPOINT} of {wanted} in {self.folder.name}",
                hint=f"folds that have one: {', '.join(found) or 'none'}",
                code="MODEL_MISSING" if folds is None else "UNKNOWN_FOLD",
            )
        return [found[name] for name in chosen]

    def find_previous(self, configuration: str) -> Results:
        """Return the results of the stage before, which lie beside these, of the same fold.

        Raises:
            CheckpointError: MODEL_MISSING.
        """
        before = [path for path in self.folder.parent.glob(f"*__{configuration}") if _is_results(path)]
        start = self.folder.name.rpartition("__")[0]
        same = [path for path in before if path.name == f"{start}__{configuration}"]
        if len(same or before) != 1:
            raise CheckpointError(
                f"the model is a cascade, and its first stage {configuration} is not beside it",
                hint=f"put the folder …__{configuration} beside this one",
                code="MODEL_MISSING",
            )
        return Results((same or before)[0], self.fold)


def find_results(path: Path) -> Results | None:
    """Return the results that a path names (their folder, the data set's, a fold's), or None.

    Raises:
        CheckpointError: MODEL_AMBIGUOUS for a data set with several.
    """
    if _is_results(path):
        return Results(path)
    if path.name.startswith("fold_") and _is_results(path.parent):
        return Results(path.parent, path.name)
    within = [folder for folder in sorted(path.glob("*__*__*")) if _is_results(folder)]
    if len(within) > 1:
        raise CheckpointError(
            f"the folder holds {len(within)} trained configurations",
            hint=f"name one of them: {', '.join(folder.name for folder in within)}",
            code="MODEL_AMBIGUOUS",
        )
    return Results(within[0]) if within else None


def _is_results(folder: Path) -> bool:
    return (folder / "plans.json").is_file() and (folder / "dataset.json").is_file()
