"""The review of a RUN: every held-out case, predicted by the fold that did not see it, and the test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.core.files import read_if_whole, sha256_of_file
from medseg.core.volume import Labels
from medseg.data.plan import Plan
from medseg.data.store import StoredCase
from medseg.metrics import hide_ignored
from medseg.tracking.review import Channel, Entry, Scene
from medseg.workflows.review_sources import (
    Images,
    Subject,
    list_definitions,
    list_failed,
    make_scene,
    read_mask,
    read_rows,
)
from medseg.workflows.run_folder import RunFolder

UNITS = {"ct": "HU"}


def gather_run(root: Path, images: Path | None, key_file: Path) -> Subject:
    """Return what a RUN folder has to show.

    Args:
        root: RUN.
        images: The cohort, for grey values as they were scanned; None: those that the network saw.
        key_file: The site's secret for pseudonyms.

    Raises:
        ConfigError: RUN_MISSING, or RUN_INCOMPLETE: nothing was evaluated.
    """
    run = RunFolder(root)
    config = run.load_config()
    if not (run.evaluation / "cases.csv").exists():
        raise ConfigError("nothing was evaluated", hint="run `medseg train` first", code="RUN_INCOMPLETE")
    parts = _list_parts(run)
    rows = {"held out": read_rows(run.evaluation / "cases.csv")[0]}
    if (test := run.evaluation / "test" / "cases.csv").exists():
        rows["test"] = read_rows(test)[0]
    unlikely = find_unlikely(config, run)
    report = read_if_whole(run.root / "report.json")
    scored = {name: found for part in rows.values() for name, found in part.items()}
    # The check refuses once; the report is that of the last command, which may have been `train`.
    checked = list_failed(read_if_whole(run.check / "report.json"))
    failed = {name: why for name, why in checked.items() if name not in scored} | list_failed(report)
    entries = [
        Entry(
            name,
            scored.get(name, []),
            part=parts.get(name, ""),
            error=failed.get(name, ""),
            p=unlikely.get(name),
        )
        for name in sorted(scored.keys() | failed.keys())
    ]
    source = _Source(run, config, Images(images, config.data, key_file), parts)
    metrics = read_if_whole(run.evaluation / "metrics.json")
    return Subject(
        config.name,
        entries,
        config.data.labels,
        source.load,
        facts=_list_facts(run, config, report, metrics),
        notes=_list_notes(run, config, read_if_whole(run.evaluation / "test" / "metrics.json")),
        metrics=metrics,
        patients=run.patients(),
        ignore_label=config.data.ignore_label,
    )


def _list_parts(run: RunFolder) -> dict[str, str]:
    splits = run.load_splits()
    parts = {name: f"fold {fold}" for fold in run.trained_folds for name in splits.validation(fold)}
    return {**parts, **dict.fromkeys(splits.test, "test")}


@dataclass(frozen=True)
class _Source:
    run: RunFolder
    config: Config
    images: Images
    parts: Mapping[str, str]

    def load(self, case_id: str) -> Scene:
        """Return reference, prediction and image of a case, on the scan's grid."""
        stored = self.run.case(case_id)
        reference = read_mask(stored.reference)
        part = self.parts[case_id].replace(" ", "_")
        predicted = read_mask(self.run.mask_of(part, case_id), reference.geometry)
        if (ignored := self.config.data.ignore_label) is not None:
            hidden = hide_ignored(reference.array, predicted.array, ignored)[1]
            predicted = Labels(hidden, predicted.geometry)
        if case_id in self.images:
            return make_scene(predicted, reference, self.images.read(case_id))
        return self._show_stored(stored, make_scene(predicted, reference, None))

    def _show_stored(self, stored: StoredCase, scene: Scene) -> Scene:
        """Add the image as the network saw it, in the scan's own units where the plan tells the way back."""
        placement = stored.placement
        # A picture's own axes are those that the network works on: R, A, S are as good as any.
        held = [(float(a), float(b)) for a, b in zip(placement.start, placement.stop, strict=True)]
        channels, note = describe_channels(self.config, self.run.load_plan())
        return Scene(scene.geometry, scene.predicted, scene.reference, stored.image, held, channels, note)


def describe_channels(config: Config, plan: Plan) -> tuple[list[Channel], str]:
    """Return what the stored grey values of each channel are, and a sentence on it."""
    channels, words = [], []
    for (name, settings), step in zip(config.data.channels.items(), plan.normalization, strict=True):
        prefix = f"{name}: " if len(config.data.channels) > 1 else ""
        if step.shift is None or step.scale is None:
            channels.append(Channel(name))
            words.append(f"{prefix}Grey values are those that the network saw (mean 0, SD 1).")
            continue
        unit = UNITS.get(settings.normalize, "")
        channels.append(Channel(name, unit, step.scale, step.shift))
        if step.low is not None and step.high is not None:
            words.append(
                f"{prefix}Clipped to {step.low:.0f} to {step.high:.0f} {unit}".rstrip()
                + ", as the network saw it."
            )
    return channels, " ".join(words)


def find_unlikely(config: Config, run: RunFolder) -> dict[str, float]:
    """Return case id -> p of the outlier test, each case judged by the other parts of the cohort.

    Empty without RUN/trust.json or without the records of predictions; see docs/trust.md.
    """
    if not (run.root / "trust.json").exists():
        return {}
    from safetensors.numpy import load

    from medseg.inference.trust.conformal import find_p, weigh_patients
    from medseg.inference.trust.image import name_features
    from medseg.inference.trust.outlier import fit_outlier
    from medseg.workflows.postprocess_choice import assign_parts

    patients = run.patients()
    records = {
        path.name.removesuffix("_trust.safetensors"): load(path.read_bytes())["image"]
        for path in sorted(run.root.glob("predictions/fold_*/*_trust.safetensors"))
    }
    if not records:
        return {}
    names = list(records)
    parts, _ = assign_parts(run, names, patients)
    features, weights = np.stack(list(records.values())), weigh_patients([patients[name] for name in names])
    outlier = fit_outlier(
        features, np.array([parts[n] for n in names]), weights, name_features(list(config.data.channels))
    )
    found = {}
    for place, name in enumerate(names):
        others = np.arange(len(names)) != place
        distances = outlier.distances[others], weights[others]
        found[name] = round(find_p(float(outlier.distances[place]), *distances), 4)
    return found


def _list_facts(
    run: RunFolder, config: Config, report: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[tuple[str, str]]:
    plan, splits = run.load_plan(), run.load_splits()
    stored = next(run.store.glob("*/case.json"), None)
    is_picture = stored is not None and run.case(stored.parent.name).placement.original.is_picture
    options = ", ".join(f"{key} {value}" for key, value in sorted(config.model.options.items()))
    spacing = " × ".join(f"{n:g}" for n in plan.spacing_mm) + (" px" if is_picture else " mm")
    patch = " × ".join(map(str, plan.patch))
    sums = run.model / "SHA256SUMS"
    return [
        ("Pipeline", f"{config.name}: {config.summary}"),
        ("medseg", f"{report.get('version', __version__)} trained, {__version__} made this page"),
        ("Network", f"{config.model.name}{f' ({options})' if options else ''}"),
        ("Plan", f"{plan.dims}D, patch {patch}, spacing {spacing}, batch {plan.batch_size}"),
        ("Preprocessing", "; ".join(f"{key}: {why}" for key, why in sorted(plan.reasons.items()))),
        ("Folds", f"{len(run.trained_folds)} of {len(splits.folds)} trained"),
        *list_definitions(metrics),
        ("Licence of the data", config.licence or "not stated"),
        ("SHA-256 of settings", sha256_of_file(run.root / "config.yaml")),
        ("SHA-256 of the split", sha256_of_file(run.root / "splits.json")),
        *([("SHA-256 of the model's SHA256SUMS", sha256_of_file(sums))] if sums.exists() else []),
    ]


def _list_notes(run: RunFolder, config: Config, test: Mapping[str, Any]) -> list[str]:
    splits, patients = run.load_splits(), run.patients()
    names = [name for fold in splits.folds for name in fold]
    people = len({patients.get(name, name) for name in names})
    notes = [
        f"Trained on {len(names)} cases of {people} patients in {len(splits.folds)} folds, "
        f"{len(run.trained_folds)} of them trained; each held-out case is judged by a network that had not "
        "seen it."
    ]
    if (dice := test.get("mean", {}).get("dice")) is not None:
        notes.append(
            f"Test set of {len(splits.test)} cases, predicted by all folds together: mean Dice {dice:.3f}."
        )
    if config.expected:
        notes.append(f"Expected of this pipeline: {config.expected}.")
    return notes
