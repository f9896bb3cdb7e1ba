"""RUN/trust.json: what the out-of-fold cases say of the model's reliability.

While a fold predicts what it held out, a record of each case is written beside its mask,
RUN/predictions/fold_K/<id>_trust.safetensors; when all are there, `settle_trust` learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.config import Config
from medseg.core.files import write_bytes, write_json
from medseg.data.loading import region_classes
from medseg.data.preprocess import Placement
from medseg.data.settings import Data
from medseg.data.store import StoredCase
from medseg.inference.trained import TrainedModel
from medseg.inference.trust.fit import Trust, fit_trust, load_trust
from medseg.inference.trust.image import name_features
from medseg.inference.trust.observer import Slab
from medseg.inference.trust.sample import Sampler
from medseg.inference.trust.structure import MIN_PATIENTS
from medseg.inference.trust.watch import Watch, name_structures
from medseg.inference.trust.witness import Witness
from medseg.io import read_labels
from medseg.metrics import CaseMetrics
from medseg.workflows.postprocess_choice import assign_parts
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder

RECORD = "_trust.safetensors"


class Recorder:
    """Watches the prediction of a case whose reference is known."""

    def __init__(self, model: TrainedModel, case: StoredCase, image_CIJK: NDArray[np.float16]) -> None:
        """Start to watch a stored case, whose image was read already."""
        self._watch = Watch(model, image_CIJK, case.placement)
        self._case, self._data = case, model.data
        classes, spacing = np.asarray(case.label[:]), case.placement.grid.spacing_mm
        self._sampler = Sampler(classes, spacing, model.data.n_outputs, region_classes(model.data))

    def observe(self, slab: Slab) -> None:
        """See a finished slab."""
        self._watch.observe(slab)
        self._sampler.observe(slab)

    def write(self, path: Path) -> None:
        """Write what was seen; the bytes depend on nothing else."""
        from safetensors.numpy import save

        logits, truth = self._sampler.sample()
        arrays = {
            "sums": self._watch.observer.summarize(),
            "image": self._watch.image_features,
            "volume_mm3": _measure_reference(self._case.reference, self._data, self._case.placement),
            "logits": logits,
            "truth": truth,
        }
        write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _measure_reference(path: Path, data: Data, placement: Placement) -> NDArray[np.float64]:
    stored, voxel_mm3 = read_labels(path).array, placement.original.voxel_volume_mm3
    covers = [region.covers for region in data.regions] or [(value,) for value in sorted(data.labels)]
    return np.array([np.isin(stored, values).sum() * voxel_mm3 for values in covers], np.float64)


def settle_trust(
    config: Config,
    run: RunFolder,
    cases: Sequence[CaseMetrics],
    *,
    progress: Progress,
    report: Report,
) -> None:
    """Learn from the records of all evaluated out-of-fold cases, and write RUN/trust.json.

    Not from fewer than `MIN_PATIENTS` patients, nor beside ignored voxels, where no reference says how
    large a structure is.

    Args:
        config: The task.
        run: Its folder.
        cases: Evaluated; their records lie beside their masks.
        progress: Told how well it works.
        report: Gets "trust".
    """
    path, patients = run.root / "trust.json", run.patients()
    few = len({patients[case.case_id] for case in cases}) < MIN_PATIENTS
    if few or config.data.ignore_label is not None:
        path.unlink(missing_ok=True)
        return
    modalities = run.modalities()
    trust = fit_trust(
        read_witnesses(run, {case.case_id: list_dice(case, config.data) for case in cases}),
        list(name_structures(config.data).values()),
        name_features(list(config.data.channels)),
        is_regions=bool(config.data.regions),
        modalities=[modalities[case.case_id] for case in cases if modalities[case.case_id]],
    )
    write_json(path, trust.to_json(), compact=True)
    report.extra["trust"] = trust.to_json()["figures"]
    progress.say(word_figures(trust))


def read_witnesses(run: RunFolder, dice: Mapping[str, NDArray[np.float64]]) -> list[Witness]:
    """Return what each case says; `dice` holds that of its structures, NaN where neither mask has one."""
    from safetensors.numpy import load

    patients = run.patients()
    parts, _ = assign_parts(run, list(dice), patients)
    splits = run.load_splits()
    fold_of = {name: fold for fold, names in enumerate(splits.folds) for name in names}
    found = []
    for name, values in dice.items():
        record = load((run.predictions(f"fold_{fold_of[name]}") / f"{name}{RECORD}").read_bytes())
        found.append(
            Witness(
                parts[name],
                patients[name],
                record["sums"],
                record["image"],
                run.case(name).placement.grid.voxel_volume_mm3,
                values,
                record["volume_mm3"],
                record["logits"],
                record["truth"],
            )
        )
    return found


def list_dice(case: CaseMetrics, data: Data) -> NDArray[np.float64]:
    """Return the Dice of each structure, NaN where neither mask holds it."""
    if data.regions:
        rows = [case.regions[region.name] for region in data.regions]
    else:
        rows = [case.labels[value] for value in sorted(data.labels)]
    return np.array([np.nan if row.values["dice"] is None else row.values["dice"] for row in rows])


def word_figures(trust: Trust) -> str:
    """Return how well it works in a sentence."""
    figures = trust.figures
    text = f"calibration error {figures.ece_before:.4f}, {figures.ece_after:.4f} with temperature scaling"
    if figures.volume_coverage is None or figures.dice_coverage is None:
        return text
    return (
        f"{text}; 90 % intervals hold {figures.dice_coverage:.1%} of Dice, {figures.volume_coverage:.1%} of "
        f"volumes ({figures.cases} out-of-fold cases)"
    )


def note_trust(run: RunFolder) -> list[str]:
    """Return a line for the model card."""
    path = run.root / "trust.json"
    return [f"Trust: {word_figures(load_trust(path))}"] if path.exists() else []


def recall_trust(run: RunFolder) -> str | None:
    """Return the text of RUN/trust.json, where there is one."""
    path = run.root / "trust.json"
    return path.read_text(encoding="utf-8") if path.exists() else None
