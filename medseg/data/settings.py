"""What of a task the data room reads: channels, labels, splits, grid, augmentation."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg.core.settings import Builder, Count, Positive, Settings, Share

Axis = Literal[0, 1, 2]
CODE = re.compile(r"[A-Za-z0-9_-]+:[^:]+:.+")
NotNegative = Annotated[float, Field(ge=0)]


class SeriesRule(Settings):
    """Which scan of a DICOM study a channel is; what is not set fits every scan.

    Args:
        modality: DICOM's word: CT, MR, PT, ...
        orientation: The plane that the slices lie in, most nearly.
        image_type: Words that ImageType must hold, such as PRIMARY.
        not_image_type: Words that it may not hold, such as DERIVED.
        volume: Pattern of what tells the volumes of one series apart, as `inspect` shows it ("b 0*").
        suv: Convert PET to standardised uptake values by body weight.
    """

    modality: str = ""
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    min_slices: Count = 1
    max_slices: Count | None = None
    image_type: tuple[str, ...] = ()
    not_image_type: tuple[str, ...] = ()
    volume: str = "*"
    suv: bool = False

    @property
    def is_open(self) -> bool:
        """Whether every scan fits."""
        return self == SeriesRule(suv=self.suv)


class Channel(Settings):
    """One image channel and how its intensities are normalised.

    ct: clip to the 0.5-99.5 percentile of the cohort's foreground, then the cohort's z-score.
    zscore: per-image z-score (MR, microscopy). pet: clip at the cohort's 99.95 percentile, then
    divide by the cohort's foreground standard deviation. fixed: `window` is mapped to 0..1.
    """

    normalize: Literal["ct", "zscore", "pet", "fixed", "none"] = "zscore"
    window: tuple[float, float] | None = None
    pattern: str = "*"  # which files of a patient folder hold this channel
    series: SeriesRule = SeriesRule()  # which scan of a DICOM study does

    @model_validator(mode="after")
    def _fixed_needs_a_window(self) -> Channel:
        if self.normalize == "fixed" and (self.window is None or self.window[0] >= self.window[1]):
            raise ValueError("`normalize: fixed` needs `window: [low, high]`")
        return self


class Region(Settings):
    """A structure that may overlap others; the network decides on each alone, by a sigmoid.

    Args:
        name: For metrics.
        covers: Stored values of the labels that lie in it.
        paints: Stored value that is written where it is found: one of those.
    """

    name: str
    covers: tuple[int, ...]
    paints: int


class Data(Settings):
    """What the cohort holds."""

    channels: dict[str, Channel]
    labels: dict[int, str]  # stored value -> name; 0 is background and not listed
    label_map: dict[int | Literal["nonzero"], int] = Field(
        default={}
    )  # source value -> stored value, applied first
    regions: tuple[Region, ...] = ()  # painted in this order, later ones on top; none: labels as they are
    ignore_label: int | None = None  # stored value of voxels that nobody labelled: they count for nothing
    label_pattern: str = "*mask*"  # which file of a patient folder is the label
    rois: dict[str, int] = Field(
        default={}
    )  # RTSTRUCT and SEG: name, pattern or "#number" -> stored value; empty: they are called as the labels
    codes: dict[int, str] = Field(default={})  # DICOM SEG: stored value -> what it is, "SCT:78961009:Spleen"
    code_categories: dict[int, str] = Field(
        default={}
    )  # ... and of what kind; Anatomical Structure if not said
    group_pattern: str = ""  # regular expression; its first group in an id names the patient
    layout: str = "auto"

    @model_validator(mode="after")
    def _labels_are_usable(self) -> Data:
        if not self.channels:
            raise ValueError("`channels` names no channel")
        if not self.labels or 0 in self.labels or min(self.labels) < 0 or max(self.labels) > 65535:
            raise ValueError("`labels` needs values from 1 to 65535; 0 is background and not listed")
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise ValueError(f"`group_pattern` is not a regular expression: {error}") from None
        if self.group_pattern and groups < 1:
            raise ValueError("`group_pattern` needs a group in parentheses, the patient's part of the id")
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError("two labels have the same name")
        if len(self.labels) > 254:
            raise ValueError("at most 254 labels")
        if stray := set(self.label_map.values()) - set(self.labels) - {0, self.ignore_label}:
            raise ValueError(f"`label_map` maps to {sorted(stray)}, which `labels` does not list")
        return self

    @model_validator(mode="after")
    def _ignore_label_is_usable(self) -> Data:
        value = self.ignore_label
        if value is None:
            return self
        if value in self.labels or not 0 < value <= 65535:
            raise ValueError("`ignore_label` needs a value from 1 to 65535 that `labels` does not list")
        if "nonzero" in self.label_map and value not in self.label_map.values():
            raise ValueError(f"`label_map` maps every value but 0: add what becomes `ignore_label`, {value}")
        return self

    @model_validator(mode="after")
    def _regions_paint_the_labels(self) -> Data:
        if len({region.name for region in self.regions}) < len(self.regions):
            raise ValueError("two regions have the same name")
        painted = dict.fromkeys(self.labels, 0)
        for region in self.regions:
            if stray := {region.paints, *region.covers} - set(self.labels):
                raise ValueError(f"region `{region.name}` names {sorted(stray)}: not in `labels`")
            if region.paints not in region.covers:
                raise ValueError(f"region `{region.name}` paints {region.paints}, which it does not cover")
            painted |= dict.fromkeys(region.covers, region.paints)
        if self.regions and (wrong := [value for value in painted if painted[value] != value]):
            value = wrong[0]
            last = f"the last region that covers it paints {painted[value]}"
            raise ValueError(
                f"`regions` never paint label {value}: {last if painted[value] else 'none covers it'}"
            )
        return self

    @property
    def n_outputs(self) -> int:
        """Channels of a network's output: one per region, or one per label and one for background."""
        return len(self.regions) or len(self.labels) + 1

    @model_validator(mode="after")
    def _dicom_is_usable(self) -> Data:
        if stray := set(self.rois.values()) - set(self.labels) - set(self.label_map) - {self.ignore_label}:
            raise ValueError(f"`rois` maps to {sorted(stray)}, which neither `labels` nor `label_map` lists")
        for name, codes in (("codes", self.codes), ("code_categories", self.code_categories)):
            if stray := set(codes) - set(self.labels):
                raise ValueError(f"`{name}` names {sorted(stray)}, which `labels` does not list")
            if bad := [code for code in codes.values() if not CODE.fullmatch(code)]:
                raise ValueError(
                    f"`{bad[0]}` in `{name}` is not scheme:value:meaning, like SCT:78961009:Spleen"
                )
        return self


class Split(Settings):
    """How cases are divided; whole patients, never single cases."""

    folds: Annotated[int, Field(ge=2)] = 5
    seed: Annotated[int, Field(ge=0)] | None = None  # None: the run's; set it to compare seeds on one split
    test_share: Share = 0.0
    test_ids: tuple[str, ...] = ()


class Grid(Settings):
    """What may be fixed of the plan; None lets the plan decide and say why."""

    dims: Literal[2, 3] | None = None
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    patch: tuple[Count, Count, Count] | None = None
    batch_size: Count | None = None
    mirror_axes: tuple[Axis, ...] = ()  # canonical axes: 0 left-right, 1 back-front, 2 foot-head


Below = Annotated[float, Field(ge=0, lt=1)]
# Cubic B-splines stay one to one up to 1 / 2.4795 of their control points' distance (Choi and Lee 2000).
Unfolded = Annotated[float, Field(ge=0, le=0.4)]


class Augment(Settings):
    """Probabilities and ranges; defaults are nnU-Net's constants (Isensee et al. 2021, suppl. note 2).

    What nnU-Net lacks or leaves off is off: quarter turns, elastic fields, grid distortion, bias fields.
    """

    rotate_p: Share = 0.2
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] | None = None  # None: the plan's rule
    rotate90_p: Share = 0.0  # quarter turns, between axes of equal spacing and equal patch edge
    scale_p: Share = 0.2
    scale_range: tuple[Positive, Positive] = (0.7, 1.4)
    scale_per_axis: bool = False
    elastic_p: Share = 0.0
    elastic_cells: Annotated[int, Field(ge=1, le=16)] = 3  # along the longest edge; one size (mm) on all
    elastic_strength: tuple[Unfolded, Unfolded] = (0.0, 0.2)  # share of a cell's edge
    grid_distortion_p: Share = 0.0
    grid_distortion_cells: Annotated[int, Field(ge=2, le=16)] = 4  # per axis
    grid_distortion_strength: tuple[Below, Below] = (0.0, 0.3)  # by which share a cell is stretched at most
    swap_lateral: bool = False  # mirror left and right all the same, and swap the labels of each pair
    bias_field_p: Share = 0.0  # for MR
    bias_field_strength: tuple[NotNegative, NotNegative] = (0.0, 0.5)  # largest |log| of the field
    noise_p: Share = 0.1
    noise_variance: tuple[NotNegative, NotNegative] = (0.0, 0.1)
    blur_p: Share = 0.2
    blur_sigma: tuple[NotNegative, NotNegative] = (0.5, 1.0)
    brightness_p: Share = 0.15
    brightness_range: tuple[Positive, Positive] = (0.75, 1.25)
    contrast_p: Share = 0.15
    contrast_range: tuple[Positive, Positive] = (0.75, 1.25)
    low_resolution_p: Share = 0.25
    low_resolution_zoom: tuple[Positive, Positive] = (0.5, 1.0)
    gamma_p: Share = 0.3
    gamma_inverted_p: Share = 0.1
    gamma_range: tuple[Positive, Positive] = (0.7, 1.5)
    extra: tuple[Builder, ...] = ()  # MONAI dictionary transforms, "monai.transforms:RandGibbsNoised"

    @model_validator(mode="after")
    def _ranges_rise(self) -> Augment:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name != "extra" and isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"`{name}` needs its smaller number first")
        return self
