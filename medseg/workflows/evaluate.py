"""evaluate: masks against references, by any tool, paired by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.files import make_folder, write_csv, write_json
from medseg.core.select import select
from medseg.data.cases import make_id
from medseg.data.layouts import list_images
from medseg.io import read_labels, stem
from medseg.metrics import METRICS, CaseMetrics, evaluate_case, rows, summarise
from medseg.workflows.parallel import Workers
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

Pairs = Mapping[str, tuple[Path, Path]]
NO_PARTNER = "no predicted mask has this id"


def evaluate(
    pairs: Pairs,
    labels: Mapping[int, str],
    out: Path,
    *,
    progress: Progress,
    report: Report,
    nsd_tolerance_mm: float = 1.0,
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_label: int | None = None,
    workers: Workers | None = None,
) -> list[CaseMetrics]:
    """Compare (reference, predicted) pairs and write OUT/{cases.csv,metrics.json}.

    A pair that cannot be compared is reported and the others go on. `regions` and `ignore_label` are as in
    `evaluate_case`.

    Returns:
        One result per comparable case, by id.
    """
    make_folder(out)
    work = partial(
        _evaluate_pair,
        labels=dict(labels),
        nsd_tolerance_mm=nsd_tolerance_mm,
        more={"regions": regions, "ignore_label": ignore_label},
    )
    found: list[CaseMetrics] = []
    with progress.track("evaluate", len(pairs)) as advance:
        for index, result in (workers or Workers(1)).map(
            work, list(pairs.items()), stage="evaluate", name=lambda item: item[0]
        ):
            if isinstance(result, CaseMetrics):
                found.append(result)
                report.add(CaseResult(result.case_id, "done"))
            else:
                report.add(CaseResult.of_error(list(pairs)[index], result))
            advance(list(pairs)[index])
    found.sort(key=lambda case: case.case_id)
    write_csv(out / "cases.csv", rows(found))
    metrics = summarise(found)
    write_json(out / "metrics.json", metrics)
    report.extra["metrics"] = metrics
    return found


def pair_files(reference: Path, predicted: Path, report: Report) -> Pairs:
    """Pair two files, or the images of two folders by their id.

    Raises:
        ConfigError: Not two files and not two folders.
        DataError: Nothing to compare.
    """
    if reference.is_file() and predicted.is_file():
        return {make_id(stem(predicted)): (reference, predicted)}
    for folder in (reference, predicted):
        if not folder.is_dir():
            raise ConfigError(
                "give two files or two folders of masks", hint="check both paths", code="INPUT_MISSING"
            )
    references = _index(list_images(reference))
    masks = _index([path for path in list_images(predicted) if not stem(path).endswith("_prob")])
    for name in references.keys() - masks.keys():
        report.add(CaseResult(name, "rejected", "PREDICTION_MISSING", NO_PARTNER, "predict it too"))
    pairs = {name: (references[name], masks[name]) for name in sorted(references.keys() & masks.keys())}
    if not pairs:
        raise DataError("no file of one folder has the id of one in the other", code="NO_CASES")
    return pairs


def _index(paths: Sequence[Path]) -> dict[str, Path]:
    """Return id -> file.

    Raises:
        DataError: Two files have one id; which is meant, cannot be told.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if (name := make_id(stem(path))) in found:
            raise DataError(f"two masks have the id `{name}`", hint="remove one of them", code="DUPLICATE_ID")
        found[name] = path
    return found


def find_labels(pairs: Pairs, ignore_label: int | None = None) -> dict[int, str]:
    """Return the label values that occur in references or predictions, named by their number.

    The ignore label is none of them.
    """
    import numpy as np

    values: set[int] = set()
    for path in (path for pair in pairs.values() for path in pair):
        try:
            values |= set(np.unique(read_labels(path).array).tolist())
        except DataError:
            continue  # reported when it is compared
    return {value: str(value) for value in sorted(values - {0, ignore_label})}


def _evaluate_pair(
    item: tuple[str, tuple[Path, Path]],
    *,
    labels: Mapping[int, str],
    nsd_tolerance_mm: float,
    more: Mapping[str, Any],
) -> CaseMetrics | DataError:
    name, (reference_path, predicted_path) = item
    options: dict[str, dict[str, Any]] = {"nsd": {"tolerance_mm": nsd_tolerance_mm}}
    metrics = {key: select("metric", METRICS, key, options.get(key)) for key in METRICS}
    try:
        reference, predicted = read_labels(reference_path), read_labels(predicted_path)
        if difference := reference.geometry.differs_from(predicted.geometry):
            raise GeometryError(
                f"reference and prediction lie on different grids: {difference}",
                hint="resample one onto the other's grid first",
                code="GRID_MISMATCH",
            )
        spacing_mm = reference.geometry.spacing_mm
        return evaluate_case(
            reference.array, predicted.array, spacing_mm, labels, metrics, case_id=name, **more
        )
    except DataError as error:
        return error
