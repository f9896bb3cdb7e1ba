"""RUN/postprocess.json: what the held-out cases say about post-processing, and why.

Predictions of held-out cases stay without it: they are what later folds choose on again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Config
from medseg.core.files import read_json, write_json
from medseg.core.settings import Builder
from medseg.inference.choice import Choice, HeldOut, choose_rule
from medseg.inference.settings import Infer
from medseg.io import read_labels
from medseg.metrics.pair import find_box, joint_box
from medseg.metrics.paired import METHOD
from medseg.postprocess.rules import Outcome, Rule, measure_case, write_steps
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder

MIN_PATIENTS = 10  # fewer choose nothing: an outlier would decide
PARTS = 5  # of the patients of a single fold
MEASURE = "Dice; 1 where a rule empties what has no reference; cases without the label left out"


def settle_infer(
    config: Config,
    run: RunFolder,
    pairs: Mapping[str, tuple[Path, Path]],
    *,
    progress: Progress,
    report: Report,
) -> Infer:
    """Choose post-processing on held-out cases, store it, and return how the model is to be applied.

    Steps that the pipeline lists win, and nothing is chosen then, nor with `postprocess_choice: off`, from
    few patients, of regions (what is dropped of one tears a hole into those around it) or beside ignored
    voxels (no reader said how many components there are).

    Args:
        config: The task.
        run: Its folder.
        pairs: Case id -> reference and prediction of a network that did not see the case.
        progress: Told what was chosen.
        report: Gets "postprocess".
    """
    path = run.root / "postprocess.json"
    patients = run.patients()
    is_settled = bool(config.infer.postprocess) or config.infer.postprocess_choice == "off"
    few = len({patients[name] for name in pairs}) < MIN_PATIENTS
    if is_settled or few or config.data.regions or config.data.ignore_label is not None:
        path.unlink(missing_ok=True)
        return config.infer
    tree = _choose(config, run, pairs, patients, progress)
    write_json(path, tree)
    report.extra["postprocess"] = tree
    for row in tree["labels"].values():
        progress.say(f"post-processing of {row['name']}: {row['words']}")
    return recall_infer(config, run)


def recall_infer(config: Config, run: RunFolder) -> Infer:
    """Return how the model is to be applied: as configured, with the steps that were chosen, if any."""
    path = run.root / "postprocess.json"
    if not path.exists():
        return config.infer
    steps = tuple(Builder.model_validate(step) for step in read_json(path)["steps"])
    return config.infer.model_copy(update={"postprocess": steps})


def read_notes(run: RunFolder) -> list[str]:
    """Return a line a label for the model card."""
    path = run.root / "postprocess.json"
    if not path.exists():
        return []
    return [f"Post-processing of {r['name']}: {r['words']}" for r in read_json(path)["labels"].values()]


def _choose(
    config: Config,
    run: RunFolder,
    pairs: Mapping[str, tuple[Path, Path]],
    patients: Mapping[str, str],
    progress: Progress,
) -> dict[str, Any]:
    """Return the content of postprocess.json; it names no case."""
    parts, note = assign_parts(run, list(pairs), patients)
    outcomes = _measure(config, pairs, progress)
    choices: dict[int, Choice] = {}
    for label in config.data.labels:
        held_out = [HeldOut(parts[name], patients[name], found[label]) for name, found in outcomes.items()]
        choices[label] = choose_rule(held_out, seed=config.seed)
    return {
        "cases": len(pairs),
        "patients": len({patients[name] for name in pairs}),
        "parts": note,
        "measure": MEASURE,
        "interval": {**METHOD, "seed": config.seed},
        "labels": {
            str(label): describe(config.data.labels[label], choice) for label, choice in choices.items()
        },
        "steps": write_steps({label: choice.rule for label, choice in choices.items()}),
    }


def assign_parts(
    run: RunFolder, names: Sequence[str], patients: Mapping[str, str]
) -> tuple[dict[str, int], str]:
    """Return the part of each case, its fold or a group of one fold's patients, and that in words."""
    splits = run.load_splits()
    fold_of = {name: fold for fold, ids in enumerate(splits.folds) for name in ids}
    folds = sorted({fold_of[name] for name in names})
    if len(folds) > 1:
        return {name: fold_of[name] for name in names}, f"folds {', '.join(map(str, folds))}"
    order = {patient: place for place, patient in enumerate(sorted({patients[name] for name in names}))}
    words = f"{PARTS} groups of the patients that fold {folds[0]} held out"
    return {name: order[patients[name]] % PARTS for name in names}, words


def _measure(
    config: Config, pairs: Mapping[str, tuple[Path, Path]], progress: Progress
) -> dict[str, dict[int, Outcome]]:
    found = {}
    with progress.track("post-processing", len(pairs)) as advance:
        for name, (reference_path, predicted_path) in pairs.items():
            reference, predicted = read_labels(reference_path), read_labels(predicted_path)
            # Cavities and components are the same inside the box and its margin, and found much faster.
            sides = [find_box(array != 0) for array in (reference.array, predicted.array)]
            box = joint_box(sides, reference.array.shape) if any(sides) else np.s_[:1, :1, :1]
            arrays = reference.array[box], predicted.array[box]
            found[name] = measure_case(*arrays, reference.geometry, list(config.data.labels))
            advance(name)
    return found


def describe(name: str, choice: Choice) -> dict[str, Any]:
    """Return a label's choice as plain data."""
    gain = choice.gain.to_json() if choice.gain else None
    return {
        "name": name,
        "words": _word(choice),
        "is_kept": choice.rule != Rule(),
        "best": word_rule(choice.best),
        "best_without_part": {str(part): word_rule(rule) for part, rule in choice.by_part.items()},
        "dice_before": _rounded(choice.before),
        "dice_after": _rounded(choice.after),
        "gain": gain,
    }


def _word(choice: Choice) -> str:
    gain = choice.gain
    if gain is None:
        return "none; the label occurs in no held-out case"
    if gain.low is None or gain.high is None:
        return f"none; {gain.n_patients} patients have the label, too few to tell"
    told = f"Dice {gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
    if choice.rule != Rule():
        return f"{word_rule(choice.rule)} ({told})"
    return f"none; no gain is shown ({told})"


def word_rule(rule: Rule) -> str:
    """Return a rule in words."""
    words = ["cavities filled"] if rule.fills else []
    if rule.largest:
        words.append("largest component kept")
    if rule.min_volume_mm3:
        words.append(f"components below {rule.min_volume_mm3:g} mm3 dropped")
    return ", ".join(words) or "none"


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, 6)
