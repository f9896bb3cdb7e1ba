"""The layout of a RUN folder, and what may not change once something was learnt in it.

RUN/config.yaml plan.json splits.json    RUN/check/{cases.csv,report.json}    RUN/store/
RUN/fold_K/{checkpoint.pt,history.csv}   RUN/predictions/fold_K/<id>.nii.gz
RUN/evaluation/{cases.csv,metrics.json}  RUN/evaluation/{overlays,plots}/     RUN/model/
RUN/report.json tracking.json review.html
RUN/postprocess.json RUN/trust.json          RUN/predictions/fold_K/<id>_trust.safetensors
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.config.layers import differences, load, save
from medseg.core.errors import ConfigError
from medseg.core.files import make_folder, read_json, sweep, write_json
from medseg.core.lock import lock_folder
from medseg.data.plan import Plan
from medseg.data.splits import Splits
from medseg.data.store import StoredCase

FREE = {"workers", "summary", "licence", "expected"}  # settings that change no result


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a RUN folder."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def check(self) -> Path:
        return self.root / "check"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; of a torchrun job rank 0 holds the lock for all.

        Raises:
            ResourceError: RUN_LOCKED.
        """
        with lock_folder(self.root) if os.environ.get("RANK", "0") == "0" else nullcontext():
            yield

    def fold(self, fold: int) -> Path:
        return self.root / f"fold_{fold}"

    def predictions(self, part: str) -> Path:
        return self.root / "predictions" / part

    def mask_of(self, part: str, case_id: str) -> Path:
        """Return where the mask of a predicted case is, whatever its suffix."""
        picture = self.predictions(part) / f"{case_id}.png"
        return picture if picture.exists() else picture.with_name(f"{case_id}.nii.gz")

    @property
    def is_trained(self) -> bool:
        """Whether a training has begun here: plan and splits are then fixed."""
        return any(self.root.glob("fold_*/checkpoint.pt"))

    @property
    def trained_folds(self) -> list[int]:
        """Folds whose training has ended: their weights are in RUN/model."""
        return sorted(
            int(path.stem.rpartition("_")[2]) for path in self.model.glob("weights_fold_*.safetensors")
        )

    def patients(self) -> dict[str, str]:
        """Return whose case each one is, as the check noted it.

        Raises:
            ConfigError: RUN_INCOMPLETE.
        """
        return {row["id"]: row["patient"] for row in self._list_checked()}

    def modalities(self) -> dict[str, str]:
        """Return the modality of each case as DICOM told it, or "".

        Raises:
            ConfigError: RUN_INCOMPLETE.
        """
        return {row["id"]: row.get("modality", "") for row in self._list_checked()}

    def _list_checked(self) -> list[dict[str, str]]:
        path = self.check / "cases.csv"
        if not path.exists():
            raise ConfigError(
                "check/cases.csv is missing", hint="run `medseg preprocess` first", code="RUN_INCOMPLETE"
            )
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def settle_config(self, config: Config) -> Config:
        """Store the config, or compare it with the one that is there.

        Raises:
            ConfigError: CONFIG_CHANGED, with every difference.
        """
        make_folder(self.root)
        sweep(self.root, below=True)
        path = self.root / "config.yaml"
        if path.exists():
            changed = [line for line in differences(load(path), config) if line.split(":")[0] not in FREE]
            if changed:
                raise ConfigError(
                    f"the settings differ from those this folder was made with: {'; '.join(changed[:8])}",
                    hint="use another output folder, or the old settings",
                    code="CONFIG_CHANGED",
                )
        save(config, path)
        return config

    def load_config(self) -> Config:
        """Return the stored config.

        Raises:
            ConfigError: This is not a RUN folder.
        """
        if not (self.root / "config.yaml").exists():
            raise ConfigError(
                "this is not a run folder", hint="run `medseg preprocess` first", code="RUN_MISSING"
            )
        sweep(self.root, below=True)
        return load(self.root / "config.yaml")

    def settle(self, name: str, value: dict[str, Any]) -> None:
        """Write plan.json or splits.json; once a training has begun it may not change.

        Raises:
            ConfigError: DATA_CHANGED.
        """
        path = self.root / name
        if path.exists() and self.is_trained:
            old = read_json(path)
            changed = [key for key in value if _plain(old.get(key)) != _plain(value[key])]
            if changed:
                raise ConfigError(
                    f"data or device changed after training: {name} would differ in {', '.join(changed)}",
                    hint="use another output folder, or the old data and device",
                    code="DATA_CHANGED",
                )
        write_json(path, value)

    def load_plan(self) -> Plan:
        """Return the stored plan."""
        return Plan.from_json(self._load("plan.json"))

    def load_splits(self) -> Splits:
        """Return the stored splits."""
        tree = self._load("splits.json")
        return Splits(tuple(tree["test"]), tuple(tuple(fold) for fold in tree["folds"]))

    def save_splits(self, splits: Splits) -> None:
        """Store the splits."""
        self.settle("splits.json", asdict(splits))

    def case(self, case_id: str) -> StoredCase:
        """Return a stored case."""
        return StoredCase(self.store / case_id)

    def _load(self, name: str) -> Any:
        if not (self.root / name).exists():
            raise ConfigError(
                f"{name} is missing", hint="run `medseg preprocess` first", code="RUN_INCOMPLETE"
            )
        return read_json(self.root / name)


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
