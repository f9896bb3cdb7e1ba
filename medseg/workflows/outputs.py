"""What infer writes of a case: mask, DICOM objects, maps, and the sidecar that vouches for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import __version__
from medseg.core.errors import FormatError
from medseg.core.volume import Labels
from medseg.data.cases import Case
from medseg.data.settings import Data
from medseg.inference.trained import TrainedModel
from medseg.io import mask_suffix, write_labels
from medseg.workflows.sidecar import PROBABILITIES, measure
from medseg.workflows.to_dicom import OBJECTS

if TYPE_CHECKING:
    from medseg.io.dicom.scan import Scan

FORMATS = ("nifti", *OBJECTS)
UNCERTAINTY = {"entropy": "_entropy.nii.gz", "disagreement": "_disagreement.nii.gz"}
SUFFIXES = (".nii.gz", ".png", PROBABILITIES, *UNCERTAINTY.values(), *OBJECTS.values(), ".json")
"""Of all that infer may write of a case; the sidecar comes last."""


@dataclass(frozen=True)
class Outputs:
    """File names in OUT.

    Args:
        mask: NIfTI, or PNG of a picture; None where it is not asked for.
        objects: Format -> file name of what only DICOM scans can have.
        maps: Kind of uncertainty -> file name.
        warnings: (code, message) of what was asked for and cannot be.
    """

    case_id: str
    mask: str | None
    probabilities: str | None = None
    objects: dict[str, str] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them."""
        names = [self.mask, *self.objects.values(), f"{self.case_id}.json", self.probabilities]
        names += self.maps.values()
        return [name for name in names if name]

    def clear(self, out: Path) -> None:
        """Remove the old sidecar and what it vouched for and will not be written again.

        A kill in between would else let the sidecar lie.
        """
        (out / f"{self.case_id}.json").unlink(missing_ok=True)
        for name in (f"{self.case_id}{suffix}" for suffix in SUFFIXES):
            if name not in self.names or name in (self.probabilities, *self.maps.values()):
                (out / name).unlink(missing_ok=True)


def plan_outputs(
    case: Case, formats: Sequence[str], save_probabilities: bool, uncertainty: Sequence[str] = ()
) -> Outputs:
    """Decide what can be written of a case.

    Args:
        case: The scan.
        formats: Of `FORMATS`.
        save_probabilities: Whether they are asked for.
        uncertainty: The maps of `UNCERTAINTY` that are asked for.

    Raises:
        FormatError: FORMAT_NEEDS_DICOM: nothing that was asked for.
    """
    suffix, warnings = mask_suffix(case.images[0]), []
    objects = {name: f"{case.id}{OBJECTS[name]}" for name in formats if name in OBJECTS}
    if objects and isinstance(case.images[0], Path):
        text = "DICOM objects refer to the DICOM series that was segmented; this input is none"
        if "nifti" not in formats:
            raise FormatError(
                text, hint="give the DICOM folder, or --format nifti", code="FORMAT_NEEDS_DICOM"
            )
        warnings.append(("FORMAT_NEEDS_DICOM", f"{text}; only the mask was written"))
        objects = {}
    if save_probabilities and suffix == ".png":
        warnings.append(("NO_PROBABILITIES", "a picture cannot hold probabilities; none were written"))
        save_probabilities = False
    if uncertainty and suffix == ".png":
        warnings.append(("NO_UNCERTAINTY", "a picture cannot hold maps of uncertainty; none were written"))
        uncertainty = ()
    return Outputs(
        case.id,
        mask=f"{case.id}{suffix}" if "nifti" in formats else None,
        probabilities=f"{case.id}{PROBABILITIES}" if save_probabilities else None,
        objects=objects,
        maps={name: f"{case.id}{UNCERTAINTY[name]}" for name in uncertainty},
        warnings=tuple(warnings),
    )


def write_objects(
    out: Path, outputs: Outputs, labels: Labels, scan: Path | Scan, model: TrainedModel
) -> None:
    """Write the DICOM objects of a mask, which belong to the series that was segmented.

    Raises:
        DataError: The series cannot be referred to.
    """
    names, codes = model.data.labels, parse_codes(model.data.codes)
    categories = parse_codes(model.data.code_categories)
    algorithm = (f"medseg {model.name}", f"{__version__} {model.sha256[:12]}")
    for name, file in outputs.objects.items():
        assert not isinstance(scan, Path)
        if name == "rtstruct":
            from medseg.io.dicom.labels.rtstruct import write_rtstruct

            write_rtstruct(out / file, labels, scan, names, algorithm=algorithm)
        else:
            from medseg.io.dicom.labels.seg import write_seg

            write_seg(
                out / file, labels, scan, names, codes=codes, categories=categories, algorithm=algorithm
            )


def parse_codes(codes: Mapping[int, str]) -> dict[int, tuple[str, str, str]]:
    """Return (value, scheme, meaning) of each label's "SCT:78961009:Spleen"."""
    found = {}
    for label, text in codes.items():
        scheme, value, meaning = text.split(":", 2)
        found[label] = (value, scheme, meaning)
    return found


def write_mask(path: Path, labels: Labels, *, like: Path | Scan) -> None:
    """Write a mask on the grid and with the header of the image it belongs to."""
    write_labels(path, labels, None if path.suffix == ".png" else like)


def measure_labels(labels: Labels, data: Data) -> dict[str, Any]:
    """Return name and volume of every label, as the sidecar holds them."""
    return measure(labels, data.labels)
