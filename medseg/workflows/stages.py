"""What infer does with a case, in three stages: read and preprocess, predict, clean and write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from medseg.core.errors import DataError, ResourceError, is_out_of_memory
from medseg.core.files import read_if_whole
from medseg.core.volume import Labels
from medseg.data.cases import Case
from medseg.data.checks import hash_files, require_unchanged
from medseg.data.loading import load_image, tell_notes
from medseg.data.preprocess import Placement
from medseg.inference.backends.choose import AUTO
from medseg.inference.segment import Segmenter
from medseg.inference.trained import TrainedModel
from medseg.inference.trust.maps import Maps
from medseg.inference.trust.watch import Watch, count_members
from medseg.inference.way import Way
from medseg.inference.windows import Box
from medseg.io import stream_probabilities, write_probabilities
from medseg.workflows.calibrate import describe_channels
from medseg.workflows.foresight import OTHERS, Foresight
from medseg.workflows.outputs import (
    SUFFIXES,
    UNCERTAINTY,
    Outputs,
    measure_labels,
    plan_outputs,
    write_mask,
    write_objects,
)
from medseg.workflows.report import CaseResult
from medseg.workflows.scans import describe_scan, name_modalities
from medseg.workflows.sidecar import clear_refused, find_versions, hash_outputs, is_done, write_sidecar

Find = Callable[[NDArray[Any]], Box | None]  # preprocessed image -> where to look


@dataclass
class Step:
    """One case on its way; once there is a result, later stages leave it alone."""

    case: Case
    result: CaseResult | None = None
    seconds: float = 0.0
    is_roomy: bool = False
    way: Way | None = None
    slower: Way | None = None  # that it took in the end, because memory ran out
    outputs: Outputs | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    warnings: list[tuple[str, str]] = field(default_factory=list)  # of the prediction
    image: tuple[NDArray[Any], Placement] | None = None
    placement: Placement | None = None
    labels: Labels | None = None
    maps: Maps | None = None
    trust: dict[str, Any] | None = None
    opened: ExitStack | None = None  # files that are filled, and closed when the case is written

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Time the block; what is wrong with the case, or too much for the machine, becomes its result."""
        started = time.perf_counter()
        try:
            yield
        except ResourceError as error:
            self.result = CaseResult.of_error(self.case.id, error, "failed")
        except DataError as error:
            self.result = CaseResult.of_error(self.case.id, error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            hint = "use --device cpu or a machine with more memory"
            shortage = ResourceError("out of memory", hint=hint, code="OUT_OF_MEMORY")
            self.result = CaseResult.of_error(self.case.id, shortage, "failed")
        self.seconds += time.perf_counter() - started


class CaseStages:
    """The stages of all cases of a command; nothing partial is left under a final name.

    Args:
        segmenter: Of the model.
        cases: The scans.
        out: OUT.
        foresee: Chooses the way by a forecast of the memory; None: the fastest way.
        find: Where to look in an image; None: everywhere.
        save_probabilities: Whether to write OUT/<id>_prob.nii.gz too.
        save_uncertainty: Whether to write the maps of entropy and, of several members, disagreement too.
        formats: Of `outputs.FORMATS`.
        settings: What else decides the masks' bits, for the sidecar.
        repairs: `Wanted.settings` that DICOM scans were read with.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cases: Sequence[Case],
        out: Path,
        *,
        foresee: Foresight | None = None,
        find: Find | None = None,
        save_probabilities: bool = False,
        save_uncertainty: bool = False,
        formats: Sequence[str] = ("nifti",),
        settings: Mapping[str, Any] | None = None,
        repairs: Mapping[str, Any] | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.cases = cases
        self.out = out
        self._foresee = foresee
        self._find = find
        self._save_probabilities = save_probabilities
        self._save_uncertainty = save_uncertainty
        self._formats = tuple(formats)
        self._settings = dict(settings or {})
        self._repairs = dict(repairs or {})

    @property
    def model(self) -> TrainedModel:
        """Of the segmenter."""
        return self.segmenter.model

    def read(self, index: int) -> Step:
        """Read and preprocess a scan, unless its mask is there already."""
        step = Step(self.cases[index])
        with step.attempt():
            self._read(step, self._neighbour(index - 1), self._neighbour(index + 1))
        return step

    def is_roomy(self, step: Step) -> bool:
        """Whether its neighbours may be in memory beside it."""
        return step.is_roomy

    def predict(self, step: Step) -> Step:
        """Turn the image into a mask, not yet cleaned."""
        if step.result is None:
            with step.attempt():
                self._predict(step)
        step.image = None
        return step

    def write(self, step: Step) -> CaseResult:
        """Clean and write the mask, or remove what earlier runs wrote of a case that is refused now."""
        if step.result is None:
            with step.attempt():
                step.result = self._write(step)
        result = step.result
        assert result is not None
        # A format that the case cannot have says nothing against the mask that is there.
        if result.status in {"rejected", "failed"} and result.code != "FORMAT_NEEDS_DICOM":
            clear_refused(self.out, step.case, result.code, SUFFIXES)
        result.seconds = step.seconds
        return result

    def _neighbour(self, index: int) -> Case | None:
        return self.cases[index] if 0 <= index < len(self.cases) else None

    def _read(self, step: Step, before: Case | None, after: Case | None) -> None:
        case, n_channels = step.case, len(self.model.data.channels)
        if not case.images:
            load_image(case, n_channels)  # says what is missing
        maps: Sequence[str] = ()
        if self._save_uncertainty:
            maps = [*UNCERTAINTY] if count_members(self.model) > 1 else ["entropy"]
        step.outputs = plan_outputs(case, self._formats, self._save_probabilities, maps)
        step.identity = self._identify(case)
        if is_done(self.out, case.id, step.outputs.names, step.identity):
            trust = read_if_whole(self.out / f"{case.id}.json").get("trust")
            step.result = CaseResult(case.id, "skipped", outputs=step.outputs.names, trust=trust)
            return
        if self._foresee is not None:
            found = self._foresee(case, before, after)
            step.way, step.is_roomy = found.way, OTHERS in found.parts_mb
        # Not bound to a name: the scan as stored is not needed once it is preprocessed.
        step.image = self.model.preprocess(load_image(case, n_channels, step.notes))
        require_unchanged(case, step.identity["input_sha256"])

    def _identify(self, case: Case) -> dict[str, Any]:
        """Return what decides the outputs' bits; of the backend what was asked: "auto" is timing."""
        is_dicom = not isinstance(case.images[0], Path)
        backend = self.segmenter.decision.asked
        packages = ["torch", "numpy", *(["pydicom"] if is_dicom else [])]
        return {
            "input_sha256": hash_files(case)[0],
            "model_sha256": self.model.sha256,
            "settings": {
                **self.segmenter.settings.model_dump(mode="json"),
                **self._settings,
                "backend": backend,
                "probabilities": self._save_probabilities,
                **({"uncertainty": True} if self._save_uncertainty else {}),
                **(self._repairs if is_dicom else {}),
            },
            "versions": find_versions(*packages, *([] if backend in {AUTO, "torch"} else [backend])),
        }

    def _predict(self, step: Step) -> None:
        """Predict in the way that was chosen; where memory runs out all the same, in those that take less."""
        chosen, has_gpu = step.way or self.segmenter.way, self.segmenter.device.type != "cpu"
        ways = [chosen, *(way for way in chosen.step_down(has_gpu=has_gpu) if way != chosen)]
        for way in ways:
            step.slower = None if way == chosen else way
            try:
                self._predict_in(step, way)
                return
            except (MemoryError, RuntimeError) as error:
                if way == ways[-1] or not is_out_of_memory(error):
                    raise
            torch.cuda.empty_cache()  # out here, where the error and all that it held are gone

    def _predict_in(self, step: Step, way: Way) -> None:
        assert step.image is not None and step.outputs is not None
        image, placement = step.image
        step.placement = placement
        with ExitStack() as stack:
            step.outputs.clear(self.out)  # what the old sidecar vouched for
            sink = None
            if step.outputs.probabilities is not None:
                path, outputs = self.out / step.outputs.probabilities, self.model.data.n_outputs
                axis = placement.working_axes[self.segmenter.plan(image.shape[1:]).axis][0]
                made = stream_probabilities(path, outputs, step.case.images[0], slowest=axis)
                mapped = stack.enter_context(made)
                sink = mapped.array, mapped.release
            watch = Watch(self.model, image, placement, with_maps=bool(step.outputs.maps))
            is_watched = self.model.trust is not None or bool(step.outputs.maps)
            box = None if self._find is None else self._find(image)
            slabs = self.segmenter.stream(image, box=box, way=way, folder=self.out)
            step.labels, _ = self.segmenter.segment(
                image,
                placement,
                sink=sink,
                observers=[watch.observe] if is_watched else [],
                slabs=slabs,
                is_cleaned=False,
                warnings=step.warnings,
            )
            step.maps, step.trust = watch.maps, watch.judge(name_modalities(step.case))
            step.opened = stack.pop_all()

    def _write(self, step: Step) -> CaseResult:
        assert step.labels is not None and step.outputs is not None
        assert step.opened is not None and step.placement is not None
        case, outputs, out, scan = step.case, step.outputs, self.out, step.case.images[0]
        with step.opened:
            labels = self.segmenter.clean(step.labels)
        warnings = [*case.warnings, *tell_notes(step.notes), *step.warnings, *outputs.warnings]
        if not labels.array.any():
            warnings.append(("MASK_EMPTY", "no voxel was segmented"))
        if step.slower is not None:
            warnings.append(("MEMORY_STEPPED_DOWN", f"memory ran out; done with {step.slower.describe()}"))
        write_objects(out, outputs, labels, scan, self.model)
        maps = step.maps.restore(step.placement) if step.maps else {}
        for kind, name in outputs.maps.items():
            write_probabilities(out / name, maps[kind][..., None], scan)
        if outputs.mask:
            write_mask(out / outputs.mask, labels, like=scan)
        made, volumes = hash_outputs(out, outputs.names), measure_labels(labels, self.model.data)
        grid = labels.geometry  # that of the first image
        about: dict[str, Any] = {"trust": step.trust}
        if not isinstance(scan, Path):
            about["scan"] = describe_scan(scan, grid.shape[2])
        if outputs.probabilities:
            about["temperatures"] = list(self.segmenter.temperatures)
        if self.segmenter.decision.asked == AUTO:
            about["backend"] = self.segmenter.decision.chosen.backend
        if outputs.probabilities:
            about["probabilities"] = describe_channels(self.model.data)
        sidecar = out / f"{case.id}.json"
        write_sidecar(sidecar, step.identity, grid, outputs=made, labels=volumes, warnings=warnings, **about)
        return CaseResult(case.id, "done", warnings=warnings, outputs=outputs.names, trust=step.trust)
