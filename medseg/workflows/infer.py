"""infer: scans in, masks out; a case already done is skipped, a bad one is reported, the rest goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from medseg.core.errors import ConfigError, DataError, ResourceError, is_out_of_memory
from medseg.core.files import make_folder, read_if_whole, sweep
from medseg.core.volume import Labels
from medseg.data.cases import Case, pseudonymize, read_key
from medseg.data.checks import hash_files, require_unchanged
from medseg.data.inputs import find_inputs
from medseg.data.loading import load_image, tell_notes
from medseg.data.settings import Data
from medseg.data.studies import Wanted
from medseg.inference.backends.choose import AUTO, Decision
from medseg.inference.model import TrainedModel, load_model
from medseg.inference.network import choose_device
from medseg.inference.segment import Segmenter
from medseg.inference.trust.watch import Watch, count_members
from medseg.io import stream_probabilities, write_labels, write_probabilities
from medseg.workflows.foresight import TOO_LARGE, Foresight
from medseg.workflows.outputs import SUFFIXES, UNCERTAINTY, Outputs, plan_outputs, write_objects
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
    save_uncertainty: bool = False,
    device: str = "auto",
    backend: str = "torch",
    threads: int | None = None,
    trust_code: bool = False,
    memory_gb: float | None = None,
    tell: Callable[[str], None] | None = None,
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
        save_uncertainty: Whether to write OUT/<id>_entropy.nii.gz and OUT/<id>_disagreement.nii.gz too.
        device: auto, cpu or cuda.
        backend: auto, torch, openvino or onnxruntime.
        threads: Of the CPU; None takes all.
        trust_code: Whether the model may use code from outside medseg.
        memory_gb: What a case may take; slower ways are chosen to keep within it.
        tell: Gets a line about each case before it starts: windows and the forecast of its memory.

    Raises:
        ResourceError: INFER_MEMORY, after all other cases, where some need more.
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
    is_watched = save_uncertainty or model.trust is not None
    tells_disagreement = is_watched and count_members(model) > 1
    segmenter = Segmenter(model, model.infer, tells_disagreement=tells_disagreement, backend=backend)
    report.extra["backend"] = segmenter.decision.to_json()
    if backend == AUTO:
        progress.say(segmenter.decision.describe())
    foresee = Foresight(segmenter, memory_gb, tell) if memory_gb or tell else None
    with progress.track("infer", len(cases)) as advance:
        for case in cases:
            result = infer_case(
                segmenter,
                case,
                out,
                save_probabilities=save_probabilities,
                save_uncertainty=save_uncertainty,
                formats=tuple(formats),
                repairs=(wanted or Wanted()).settings,
                foresee=foresee,
            )
            report.add(result)
            advance(case.id)
    report.write(out / "report.json")
    _raise_if_too_large(report)
    return model


def _raise_if_too_large(report: Report) -> None:
    """End with the exit code of the machine where cases were refused for it."""
    refused = [case for case in report.cases if case.code == TOO_LARGE]
    if refused:
        raise ResourceError(
            f"{len(refused)} of {len(report.cases)} cases need more memory than allowed; the first: "
            f"{refused[0].message}",
            hint=refused[0].hint or "",
            code="INFER_MEMORY",
        )


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
    save_uncertainty: bool = False,
    formats: tuple[str, ...] = ("nifti",),
    repairs: Mapping[str, Any] | None = None,
    foresee: Foresight | None = None,
) -> CaseResult:
    """Segment one case, or say why not; nothing partial is left under a final name.

    Args:
        segmenter: Of the model.
        case: The scan.
        out: OUT.
        save_probabilities: Whether to write OUT/<id>_prob.nii.gz too.
        save_uncertainty: Whether to write the maps of entropy and, of several members, disagreement too.
        formats: Of `outputs.FORMATS`.
        repairs: `Wanted.settings` that a DICOM scan was read with.
        foresee: Chooses the way by a forecast of the memory; None: the fastest way.
    """
    started = time.perf_counter()
    try:
        settings = {
            "probabilities": save_probabilities,
            **({"uncertainty": True} if save_uncertainty else {}),
        }
        outputs, identity = _plan_case(segmenter, case, formats, settings, repairs or {})
        result = _segment_case(segmenter, case, out, outputs, identity, foresee)
    except ResourceError as error:
        result = CaseResult.of_error(case.id, error, "failed")
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
    formats: tuple[str, ...],
    settings: Mapping[str, Any],
    repairs: Mapping[str, Any],
) -> tuple[Outputs, dict[str, Any]]:
    """Return what to write of a case, and what decides the outputs' bits."""
    if not case.images:
        load_image(case, len(segmenter.model.data.channels))  # says what is missing
    maps = [*UNCERTAINTY] if count_members(segmenter.model) > 1 else ["entropy"]
    wanted = maps if settings.get("uncertainty") else ()
    outputs = plan_outputs(case, formats, settings["probabilities"], wanted)
    if not isinstance(case.images[0], Path):
        settings = {**settings, **repairs}
    return outputs, _identify(case, segmenter.model, segmenter.decision, settings)


def _segment_case(
    segmenter: Segmenter,
    case: Case,
    out: Path,
    outputs: Outputs,
    identity: Mapping[str, Any],
    foresee: Foresight | None,
) -> CaseResult:
    model = segmenter.model
    if is_done(out, case.id, outputs.names, identity):
        trust = read_if_whole(out / f"{case.id}.json").get("trust")
        return CaseResult(case.id, "skipped", outputs=outputs.names, trust=trust)
    way = foresee(case).way if foresee else segmenter.way
    notes: set[str] = set()
    # Not bound to a name: the scan as stored is not needed once it is preprocessed.
    array, placement = model.preprocess(load_image(case, len(model.data.channels), notes))
    require_unchanged(case, identity["input_sha256"])
    watch = Watch(model, array, placement, with_maps=bool(outputs.maps))
    with _open_probabilities(out, outputs, case, model) as sink:
        labels, _ = segmenter.segment(
            array,
            placement,
            sink=sink,
            observers=[watch.observe] if model.trust or outputs.maps else [],
            slabs=segmenter.stream(array, way=way, folder=out),
        )
    warnings = [*case.warnings, *tell_notes(notes), *outputs.warnings]
    if not labels.array.any():
        warnings.append(("MASK_EMPTY", "no voxel was segmented"))
    write_objects(out, outputs, labels, case.images[0], model)
    maps = watch.maps.restore(placement) if watch.maps else {}
    for kind, name in outputs.maps.items():
        write_probabilities(out / name, maps[kind][..., None], case.images[0])
    if outputs.mask:
        write_mask(out / outputs.mask, labels, like=case.images[0])
    made, volumes = hash_outputs(out, outputs.names), measure_labels(labels, model.data)
    sidecar = out / f"{case.id}.json"
    grid, scan = labels.geometry, case.images[0]  # the one whose grid the mask has
    about: dict[str, Any] = {"trust": (trust := watch.judge())}
    if not isinstance(scan, Path):
        about["scan"] = describe_scan(scan, grid.shape[2])
    if segmenter.decision.asked == AUTO:
        about["backend"] = segmenter.decision.chosen.backend
    write_sidecar(sidecar, identity, grid, outputs=made, labels=volumes, warnings=warnings, **about)
    return CaseResult(case.id, "done", warnings=warnings, outputs=outputs.names, trust=trust)


@contextmanager
def _open_probabilities(
    out: Path, outputs: Outputs, case: Case, model: TrainedModel
) -> Iterator[tuple[NDArray[Any], Callable[[], None]] | None]:
    """Yield where probabilities go, if they are wanted; what the old sidecar vouched for is removed first."""
    outputs.clear(out)
    if outputs.probabilities is None:
        yield None
        return
    path = out / outputs.probabilities
    with stream_probabilities(path, model.data.n_outputs, case.images[0]) as mapped:
        yield mapped.array, mapped.release


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
