"""infer: scans in, masks out; a case already done is skipped, a bad one is reported, the rest goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg import __version__
from medseg.core.errors import ConfigError, DataError, ResourceError, is_out_of_memory
from medseg.core.files import make_folder, read_if_whole, sweep, write_json
from medseg.core.volume import Labels
from medseg.data.cases import Case, pseudonymize
from medseg.data.checks import hash_files
from medseg.data.inputs import find_inputs
from medseg.data.loading import load_image
from medseg.data.preprocess import preprocess_image
from medseg.inference.model import TrainedModel, load_model
from medseg.inference.network import choose_device
from medseg.inference.segment import Segmenter
from medseg.io import write_labels, write_probabilities
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report

PICTURES = {".png", ".tif", ".tiff"}


def infer(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    *,
    progress: Progress,
    report: Report,
    device: str = "auto",
    threads: int | None = None,
    save_probabilities: bool = False,
    trust_code: bool = False,
    key_file: Path | None = None,
) -> TrainedModel:
    """Segment every input and write OUT/<id>.nii.gz (2D: .png), OUT/<id>.json and OUT/report.json.

    Raises:
        DataError: No input was found.
        ConfigError: Masks would be written beside, or over, the scans.
        CheckpointError: The model is missing, damaged or preprocesses differently.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    model = load_model(model_path, choose_device(device), trust_code=trust_code)
    cases = find_inputs(inputs, model.data)
    if key_file:
        cases = pseudonymize(cases, key_file)
    _refuse_scans_in(out, cases)
    make_folder(out)
    sweep(out)
    segmenter = Segmenter(model, model.infer)
    with progress.track("infer", len(cases)) as advance:
        for case in cases:
            report.add(infer_case(segmenter, case, out, save_probabilities=save_probabilities))
            advance(case.id)
    report.write(out / "report.json")
    return model


def _refuse_scans_in(out: Path, cases: Sequence[Case]) -> None:
    """Masks carry the names of their scans: in one folder they would replace them."""
    if out.resolve() in {image.resolve().parent for case in cases for image in case.images}:
        raise ConfigError(
            "the output folder holds the scans", hint="choose another with -o", code="OUT_HOLDS_INPUT"
        )


def infer_case(segmenter: Segmenter, case: Case, out: Path, *, save_probabilities: bool) -> CaseResult:
    """Segment one case, or say why not; nothing partial is left under a final name."""
    started = time.perf_counter()
    try:
        result = _segment_case(segmenter, case, out, save_probabilities=save_probabilities)
    except DataError as error:
        result = CaseResult.of_error(case.id, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use --device cpu or a machine with more memory"
        shortage = ResourceError("out of memory", hint=hint, code="OUT_OF_MEMORY")
        result = CaseResult.of_error(case.id, shortage, "failed")
    result.seconds = time.perf_counter() - started
    return result


def _segment_case(segmenter: Segmenter, case: Case, out: Path, *, save_probabilities: bool) -> CaseResult:
    model = segmenter.model
    if not case.images:
        load_image(case, len(model.data.channels))  # says what is missing
    suffix = ".png" if case.images[0].suffix.lower() in PICTURES else ".nii.gz"
    outputs = [f"{case.id}{suffix}", f"{case.id}.json"]
    if save_probabilities and suffix == ".nii.gz":
        outputs.append(f"{case.id}_prob.nii.gz")
    settings = {**model.infer.model_dump(mode="json"), "probabilities": save_probabilities}
    identity = {
        "input_sha256": hash_files(case)[0],
        "model_sha256": model.sha256,
        "settings": settings,
        "versions": versions(),
    }
    if is_done(out, case.id, outputs, identity):
        return CaseResult(case.id, "skipped", outputs=outputs)
    image = load_image(case, len(model.data.channels))
    array, placement = preprocess_image(image, model.plan)
    labels, probabilities = segmenter.segment(array, placement, with_probabilities=save_probabilities)
    # A sidecar vouches for what lies beside it: old results go first, or a kill in between would let it lie.
    for old in (f"{case.id}.json", f"{case.id}_prob.nii.gz"):
        (out / old).unlink(missing_ok=True)
    if probabilities is not None and len(outputs) == 3:
        write_probabilities(out / outputs[2], np.moveaxis(probabilities, 0, -1), case.images[0])
    warnings = [] if labels.array.any() else [("MASK_EMPTY", "no voxel was segmented")]
    if save_probabilities and suffix == ".png":
        warnings.append(("NO_PROBABILITIES", "a picture cannot hold probabilities; none were written"))
    write_mask(out, case.id, labels, like=case.images[0], suffix=suffix)
    write_sidecar(out, case.id, labels, model, identity, warnings)
    return CaseResult(case.id, "done", warnings=warnings, outputs=outputs)


def versions() -> dict[str, str]:
    """Return the versions that decide a mask's bits."""
    return {"medseg": __version__, "torch": torch.__version__, "numpy": np.__version__}


def is_done(out: Path, case_id: str, outputs: Sequence[str], identity: Mapping[str, Any]) -> bool:
    """Say whether the sidecar, which is written last, tells of the same input, model and settings."""
    sidecar = out / f"{case_id}.json"
    if not all((out / name).exists() for name in outputs):
        return False
    tree = read_if_whole(sidecar)
    return all(tree.get(key) == value for key, value in identity.items())


def write_mask(out: Path, case_id: str, labels: Labels, *, like: Path, suffix: str) -> None:
    """Write a mask on the grid and with the header of the image it belongs to."""
    # A sidecar vouches for its mask: the old one goes first, or a kill in between would let it lie.
    (out / f"{case_id}.json").unlink(missing_ok=True)
    write_labels(out / f"{case_id}{suffix}", labels, like if suffix == ".nii.gz" else None)


def write_sidecar(
    out: Path,
    case_id: str,
    labels: Labels,
    model: TrainedModel,
    identity: Mapping[str, Any],
    warnings: Sequence[tuple[str, str]],
) -> None:
    """Write OUT/<id>.json: what was segmented, from what, with what."""
    grid = labels.geometry
    counts: NDArray[np.int64] = np.bincount(labels.array.ravel(), minlength=max(model.data.labels) + 1)
    voxel_ml = None if grid.is_picture else grid.voxel_volume_mm3 / 1000  # a picture has no size
    volumes = {
        str(value): {"name": name, "volume_ml": voxel_ml and float(f"{counts[value] * voxel_ml:.6g}")}
        for value, name in model.data.labels.items()
    }
    write_json(
        out / f"{case_id}.json",
        {
            "id": case_id,
            **identity,
            "grid": {"shape": grid.shape, "spacing_mm": grid.spacing_mm, "affine": grid.affine.tolist()},
            "labels": volumes,
            "warnings": [{"code": code, "message": message} for code, message in warnings],
            "trust": None,
        },
    )
