"""promote: the model of a run becomes the one in use, if held-out cases show that it is better.

Compared is the Dice of cases that neither model had seen, case by case, as `compare-configs` does. The
champion's numbers lie in its own MLflow run, so its RUN folder need not be there any more.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.core.errors import ConfigError, DataError, MedsegError
from medseg.core.files import read_if_whole, sha256_of_file
from medseg.inference.model import load_model
from medseg.metrics.paired import METHOD, MIN_GROUPS, Interval, bootstrap_mean
from medseg.tracking.registry import SHA256, Registry, Version, save_servable
from medseg.workflows.held_out import HeldOutScores, load_scores
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.serve import SETTINGS

CODE = Path(__file__).parent / "served.py"
SEED = 0
KEPT = ("decision", "against", "gain", "reason")  # as tags of the version
log = logging.getLogger(__name__)

Table = Mapping[str, Mapping[str, Any]]  # case id -> {"reference": SHA-256, "dice": label -> Dice or None}


def promote(run: RunFolder, *, progress: Progress, report: Report, force: str | None = None) -> None:
    """Register the model of a run, and move the alias `champion` to it.

    It moves where there is no champion, where the interval of the paired gain over it lies above zero, or by
    force; what was decided, and why, is kept as tags of the version.

    Args:
        run: Trained, evaluated and tracked.
        progress: Told the decision.
        report: Gets "promotion".
        force: Why the alias is to move in any case.

    Raises:
        DataError: NOT_BETTER or TOO_FEW_SHARED; the model is registered all the same.
        ConfigError: The run is not trained, evaluated or tracked, or the champion has other labels.
        ResourceError: REGISTRY_LOST.
    """
    if force is not None and not force.strip():
        raise ConfigError("--force needs a reason", hint='for example --force "new scanner"')
    registry = Registry()
    version = register(run, registry)
    report.mlflow = {"run_id": version.run_id, "url": registry.link(version)}
    champion = registry.find_champion(version.name)
    found: dict[str, Any] = {"model": version.name, "version": version.number}
    report.extra["promotion"] = found
    if champion is not None and champion.number == version.number:
        found |= {"decision": "unchanged", "is_champion": True}
        progress.say(f"{version.name} version {version.number} is the champion already")
        return
    gain = _compare(run, registry, champion, force) if champion else None
    refusal = _refuse(gain, champion) if champion and not force else None
    found |= {
        "decision": _decide(champion, force, refusal),
        "is_champion": refusal is None,
        "against": champion.number if champion else None,
        "gain": {**gain.to_json(), **METHOD, "seed": SEED} if gain else None,
        "reason": force,
    }
    registry.tag(version, {f"medseg.{key}": _word(found[key]) for key in KEPT if found[key] is not None})
    if refusal is not None:
        raise refusal
    registry.set_champion(version)
    progress.say(f"{version.name} version {version.number} is the champion now ({found['decision']})")


def register(run: RunFolder, registry: Registry) -> Version:
    """Return the version that holds the model of a run; it is made when there is none.

    Raises:
        ConfigError: RUN_UNTRACKED, or the run is not trained or evaluated.
        ResourceError: REGISTRY_LOST.
    """
    scores = load_scores(run, "the run")
    run_id = registry.find_run(str(read_if_whole(run.root / "tracking.json").get("run_id", "")))
    name = run.load_config().name
    sha256 = load_model(run.model, torch.device("cpu"), trust_code=True).sha256
    known = registry.find_version(name, sha256)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(prefix="medseg-") as scratch:
        folder = Path(scratch) / "servable"
        save_servable(CODE, run.model, folder, SETTINGS)
        registry.add_table(run_id, _name_table(sha256), describe_held_out(scores))
        return registry.add_version(name, run_id, folder, sha256)


def register_if_possible(run: RunFolder) -> Version | None:
    """Register at the end of a run, which must not fail by it: the run is done."""
    try:
        return register(run, Registry())
    except MedsegError as error:
        log.warning("REGISTRY_LOST the model is not registered: %s", error.message)
    except OSError as error:  # a full disk
        log.warning("REGISTRY_LOST the model is not registered: %s", type(error).__name__)
    return None


def describe_held_out(scores: HeldOutScores) -> dict[str, dict[str, Any]]:
    """Return what a later comparison needs of a run; no patient is named in it."""
    return {
        case: {"reference": sha256_of_file(scores.folder.case(case).reference), "dice": dict(labels)}
        for case, labels in sorted(scores.dice.items())
    }


def measure_gain(own: Table, other: Table, patients: Mapping[str, str]) -> Interval | None:
    """Return the mean gain over another model on the cases that both held out; None where there is none.

    A case is the same where its id and the bytes of its reference are. Its Dice is the mean over labels that
    the reference or either prediction holds; an empty prediction of an empty label counts 1.

    Args:
        own: Of `describe_held_out`.
        other: The champion's.
        patients: Case id -> whose it is.

    Raises:
        ConfigError: LABELS_DIFFER.
    """
    differences, owners = [], []
    for case, row in own.items():
        champion = other.get(case)
        if champion is None or champion["reference"] != row["reference"]:
            continue
        mine, theirs = row["dice"], champion["dice"]
        if mine.keys() != theirs.keys():
            raise ConfigError(
                "the champion has other labels",
                hint="give this pipeline another name, or --force REASON",
                code="LABELS_DIFFER",
            )
        present = [label for label in mine if mine[label] is not None or theirs[label] is not None]
        if present:
            gains = [_dice(mine[label]) - _dice(theirs[label]) for label in present]
            differences.append(math.fsum(gains) / len(gains))
            owners.append(patients[case])
    return bootstrap_mean(differences, owners, seed=SEED) if differences else None


def _dice(value: float | None) -> float:
    return 1.0 if value is None else float(value)


def _compare(run: RunFolder, registry: Registry, champion: Version, force: str | None) -> Interval | None:
    """Return the gain over the champion; by force also where there is no telling."""
    scores = load_scores(run, "the run")
    other = registry.read_table(champion.run_id, _name_table(champion.tags.get(SHA256, "")))
    try:
        return measure_gain(describe_held_out(scores), other, scores.patients)
    except ConfigError:
        if force:
            return None
        raise


def _refuse(gain: Interval | None, champion: Version) -> DataError | None:
    """Return why the alias stays where it is; None where the gain is shown."""
    against = f"the champion, version {champion.number}"
    if gain is None or gain.low is None or gain.high is None:
        n = gain.n_patients if gain else 0
        return DataError(
            f"{n} patients are shared with {against}: fewer than {MIN_GROUPS} show nothing",
            hint="train more folds of both (--fold all), or --force REASON",
            code="TOO_FEW_SHARED",
        )
    if gain.is_above_zero:
        return None
    return DataError(
        f"no gain over {against}, is shown: {gain.mean:+.4f} Dice, 95 % interval {gain.low:+.4f} to "
        f"{gain.high:+.4f} on {gain.n_cases} cases of {gain.n_patients} patients",
        hint="the champion stays; --force REASON moves the alias all the same",
        code="NOT_BETTER",
    )


def _decide(champion: Version | None, force: str | None, refusal: DataError | None) -> str:
    if refusal is not None:
        return refusal.code.lower()
    return "forced" if force else "better" if champion else "first"


def _name_table(sha256: str) -> str:
    """A run may have several versions, one for each time it was trained further."""
    return f"held_out/{sha256[:12]}.json"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
