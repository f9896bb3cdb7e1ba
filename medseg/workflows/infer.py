"""infer: scans in, masks out; a case already done is skipped, a bad one is reported, the rest goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medseg.core.errors import ConfigError, DataError, ResourceError, is_out_of_memory
from medseg.core.files import make_folder, sweep
from medseg.core.volume import Labels
from medseg.data.cases import Case, pseudonymize, read_key
from medseg.data.checks import hash_files, require_unchanged
from medseg.data.inputs import find_inputs
from medseg.data.loading import load_image, tell_notes
from medseg.data.preprocess import preprocess_image
from medseg.data.settings import Data
from medseg.data.studies import Wanted
from medseg.inference.backends.choose import AUTO, Decision
from medseg.inference.model import TrainedModel, load_model
from medseg.inference.network import choose_device
from medseg.inference.segment import Segmenter
from medseg.io import write_labels, write_probabilities
from medseg.workflows.outputs import SUFFIXES, Outputs, plan_outputs, write_objects
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.scans import describe_scan
from medseg.workflows.sidecar import (
    clear_refused,
    find_versions,
    hash_outputs,
    is_done,
    measure,
    write_sidecar,
)

if TYPE_CHECKING:
    from medseg.io.dicom.scan import Scan


def infer(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    *,
    progress: Progress,
    report: Report,
    key_file: Path,
    is_pseudonymous: bool = False,
    wanted: Wanted | None = None,
    formats: Sequence[str] = ("nifti",),
    save_probabilities: bool = False,
    device: str = "auto",
    backend: str = "torch",
    threads: int | None = None,
    trust_code: bool = False,
) -> TrainedModel:
    """Segment every input and write OUT/<id>.nii.gz (2D: .png), OUT/<id>.json and OUT/report.json.

    Args:
        inputs: Images, folders of images, of patients or of DICOM files, or a table.
        model_path: A RUN folder or its model folder.
        out: OUT.
        progress: A step a case.
        report: Gets a result a case.
        key_file: The site's secret for pseudonyms, made on first use; ids of DICOM scans need it.
        is_pseudonymous: Whether other ids are pseudonyms too.
        wanted: Which series of a DICOM study, and what may be repaired.
        formats: Of `outputs.FORMATS`.
        save_probabilities: Whether to write OUT/<id>_prob.nii.gz too.
        device: auto, cpu or cuda.
        backend: auto, torch, openvino or onnxruntime.
        threads: Of the CPU; None takes all.
        trust_code: Whether the model may use code from outside medseg.

    Raises:
        DataError: No input was found, or DICOM and other images are mixed.
        ConfigError: Masks would be written beside, or over, the scans; no such series.
        CheckpointError: The model is missing, damaged or preprocesses differently.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    model = load_model(model_path, choose_device(device), trust_code=trust_code)
    cases = find_inputs(inputs, model.data, partial(read_key, key_file), wanted)
    if is_pseudonymous:
        cases = pseudonymize(cases, key_file)
    _refuse_scans_in(out, inputs, cases)
    make_folder(out)
    sweep(out)
    segmenter = Segmenter(model, model.infer, backend=backend)
    report.extra["backend"] = segmenter.decision.to_json()
    if backend == AUTO:
        progress.say(segmenter.decision.describe())
    with progress.track("infer", len(cases)) as advance:
        for case in cases:
            result = infer_case(
                segmenter,
                case,
                out,
                save_probabilities=save_probabilities,
                formats=tuple(formats),
                repairs=(wanted or Wanted()).settings,
            )
            report.add(result)
            advance(case.id)
    report.write(out / "report.json")
    return model


def _refuse_scans_in(out: Path, inputs: Sequence[Path], cases: Sequence[Case]) -> None:
    """Masks carry the names of their scans: in one folder they would replace them.

    Below a DICOM folder, which is read with all that lies below, they would be taken for inputs next time.
    """
    place = out.resolve()
    roots = [path.resolve() for path in inputs if path.is_dir()]
    for image in (image for case in cases for image in case.images):
        homes = {path.resolve().parent for path in ((image,) if isinstance(image, Path) else image.files)}
        is_among = not isinstance(image, Path) and any(
            place.is_relative_to(root) and home.is_relative_to(root) for root in roots for home in homes
        )
        if place in homes or is_among:
            raise ConfigError(
                "the output folder holds the scans", hint="choose another with -o", code="OUT_HOLDS_INPUT"
            )


def infer_case(
    segmenter: Segmenter,
    case: Case,
    out: Path,
    *,
    save_probabilities: bool,
    formats: tuple[str, ...] = ("nifti",),
    repairs: Mapping[str, Any] | None = None,
) -> CaseResult:
    """Segment one case, or say why not; nothing partial is left under a final name.

    Args:
        segmenter: Of the model.
        case: The scan.
        out: OUT.
        save_probabilities: Whether to write OUT/<id>_prob.nii.gz too.
        formats: Of `outputs.FORMATS`.
        repairs: `Wanted.settings` that a DICOM scan was read with.
    """
    started = time.perf_counter()
    try:
        outputs, identity = _plan_case(segmenter, case, save_probabilities, formats, repairs or {})
        result = _segment_case(segmenter, case, out, outputs, identity)
    except DataError as error:
        result = CaseResult.of_error(case.id, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use --device cpu or a machine with more memory"
        shortage = ResourceError("out of memory", hint=hint, code="OUT_OF_MEMORY")
        result = CaseResult.of_error(case.id, shortage, "failed")
    # A format that the case cannot have says nothing against the mask that is there.
    if result.status in {"rejected", "failed"} and result.code != "FORMAT_NEEDS_DICOM":
        clear_refused(out, case, result.code, SUFFIXES)
    result.seconds = time.perf_counter() - started
    return result


def _plan_case(
    segmenter: Segmenter,
    case: Case,
    save_probabilities: bool,
    formats: tuple[str, ...],
    repairs: Mapping[str, Any],
) -> tuple[Outputs, dict[str, Any]]:
    """Return what to write of a case, and what decides the outputs' bits."""
    if not case.images:
        load_image(case, len(segmenter.model.data.channels))  # says what is missing
    outputs = plan_outputs(case, formats, save_probabilities)
    settings = {"probabilities": save_probabilities, **({} if isinstance(case.images[0], Path) else repairs)}
    return outputs, _identify(case, segmenter.model, segmenter.decision, settings)


def _segment_case(
    segmenter: Segmenter, case: Case, out: Path, outputs: Outputs, identity: Mapping[str, Any]
) -> CaseResult:
    model = segmenter.model
    if is_done(out, case.id, outputs.names, identity):
        return CaseResult(case.id, "skipped", outputs=outputs.names)
    notes: set[str] = set()
    image = load_image(case, len(model.data.channels), notes)
    require_unchanged(case, identity["input_sha256"])
    array, placement = preprocess_image(image, model.plan)
    labels, probabilities = segmenter.segment(
        array, placement, with_probabilities=outputs.probabilities is not None
    )
    warnings = [*case.warnings, *tell_notes(notes), *outputs.warnings]
    if not labels.array.any():
        warnings.append(("MASK_EMPTY", "no voxel was segmented"))
    outputs.clear(out)
    write_objects(out, outputs, labels, case.images[0], model)
    if probabilities is not None and outputs.probabilities:
        write_probabilities(out / outputs.probabilities, np.moveaxis(probabilities, 0, -1), case.images[0])
    if outputs.mask:
        write_mask(out / outputs.mask, labels, like=case.images[0])
    made, volumes = hash_outputs(out, outputs.names), measure_labels(labels, model.data)
    sidecar = out / f"{case.id}.json"
    grid, scan = labels.geometry, case.images[0]  # the one whose grid the mask has
    about: dict[str, Any] = {} if isinstance(scan, Path) else {"scan": describe_scan(scan, grid.shape[2])}
    if segmenter.decision.asked == AUTO:
        about["backend"] = segmenter.decision.chosen.backend
    write_sidecar(sidecar, identity, grid, outputs=made, labels=volumes, warnings=warnings, **about)
    return CaseResult(case.id, "done", warnings=warnings, outputs=outputs.names)


def _identify(
    case: Case, model: TrainedModel, decision: Decision, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what decides the outputs' bits; of the backend what was asked: "auto" is timing."""
    packages = ["torch", "numpy", *([] if isinstance(case.images[0], Path) else ["pydicom"])]
    if decision.asked not in {AUTO, "torch"}:
        packages.append(decision.asked)
    return {
        "input_sha256": hash_files(case)[0],
        "model_sha256": model.sha256,
        "settings": {**model.infer.model_dump(mode="json"), "backend": decision.asked, **settings},
        "versions": find_versions(*packages),
    }


def write_mask(path: Path, labels: Labels, *, like: Path | Scan) -> None:
    """Write a mask on the grid and with the header of the image it belongs to."""
    write_labels(path, labels, None if path.suffix == ".png" else like)


def measure_labels(labels: Labels, data: Data) -> dict[str, Any]:
    """Return name and volume of every label, as the sidecar holds them."""
    return measure(labels, data.labels)
