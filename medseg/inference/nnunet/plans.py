"""plans.json: what one configuration of nnU-Net decided, read from all formats that its version 2 wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medseg.core.errors import CheckpointError
from medseg.inference.damage import damaged, read_tree
from medseg.inference.nnunet.resampling import Resampling

T = TypeVar("T", bound=BaseModel)
READERS = {  # name -> whether it turns images to canonical axes
    "SimpleITKIO": False,
    "NibabelIO": False,
    "NaturalImage2DIO": False,
    "SimpleITKIOWithReorient": True,
    "NibabelIOWithReorient": True,
}


def refuse(what: str) -> CheckpointError:
    """Return the error for a model that uses what is not known here."""
    return CheckpointError(
        f"the model needs {what}, which is not supported",
        hint="run it with the software that trained it",
        code="MODEL_UNSUPPORTED",
    )


class Lenient(BaseModel):
    """Takes what is needed and leaves the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Architecture(Lenient):
    """arch_kwargs: how the network is built; `n_blocks_per_stage` is that of residual encoders."""

    n_stages: int = Field(ge=1, le=12)
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_conv_per_stage: tuple[int, ...] = ()
    n_blocks_per_stage: tuple[int, ...] = ()
    n_conv_per_stage_decoder: tuple[int, ...]

    @model_validator(mode="before")
    @classmethod
    def _spread_numbers(cls, tree: Any) -> Any:
        """One number stands for all levels."""
        if not isinstance(tree, Mapping) or not isinstance(tree.get("n_stages"), int):
            return tree
        levels = {name: tree["n_stages"] for name in cls.model_fields if name != "n_stages"}
        levels["n_conv_per_stage_decoder"] -= 1
        counts = {
            name: [tree[name]] * count for name, count in levels.items() if isinstance(tree.get(name), int)
        }
        return {**tree, **counts}


class Configuration(Lenient):
    """One of `configurations`, with what it inherits."""

    spacing: tuple[float, ...]
    patch_size: tuple[int, ...] = Field(min_length=2, max_length=3)
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    network: str
    arch_kwargs: Architecture
    resampling_data: Resampling
    resampling_seg: Resampling
    resampling_probabilities: Resampling
    previous_stage: str | None = None

    @property
    def dims(self) -> int:
        """Spatial axes of the network."""
        return len(self.patch_size)


class Plans(Lenient):
    """The part of plans.json that all configurations share."""

    dataset_name: str = "nnU-Net model"
    transpose_forward: tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]]
    image_reader_writer: str = "SimpleITKIO"
    label_manager: str = "LabelManager"
    foreground_intensity_properties_per_channel: dict[int, dict[str, float]] = Field(default={})
    configurations: dict[str, dict[str, Any]]

    def configure(self, name: str) -> Configuration:
        """Return a configuration.

        Raises:
            CheckpointError: MODEL_DAMAGED or MODEL_UNSUPPORTED.
        """
        if self.image_reader_writer not in READERS:
            raise refuse(f"the image reader `{self.image_reader_writer}`")
        if self.label_manager != "LabelManager":
            raise refuse(f"the label manager `{self.label_manager}`")
        tree = self._inherit(name, ())
        preprocessor = tree.get("preprocessor_name", "DefaultPreprocessor")
        if preprocessor != "DefaultPreprocessor":
            raise refuse(f"the preprocessor `{preprocessor}`")
        network, options = _find_architecture(tree)
        if network not in ("PlainConvUNet", "ResidualEncoderUNet"):
            raise refuse(f"the network `{network}`")
        _require_known(options)
        kinds = ("data", "seg", "probabilities")
        resampling = {f"resampling_{kind}": _read_resampling(tree, kind) for kind in kinds}
        return parse(Configuration, {**tree, "network": network, "arch_kwargs": options, **resampling})

    def _inherit(self, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        if name not in self.configurations or name in seen:
            raise CheckpointError(
                f"plans.json has no usable configuration `{name}`",
                hint="copy the model folder again",
                code="MODEL_DAMAGED",
            )
        tree = self.configurations[name]
        parent = tree.get("inherits_from")
        return tree if parent is None else {**self._inherit(parent, (*seen, name)), **tree}


def read_plans(path: Path) -> Plans:
    """Read plans.json.

    Raises:
        CheckpointError: MODEL_DAMAGED.
    """
    tree = read_tree(path)
    old = tree.get("foreground_intensity_properties_by_modality", {})
    return parse(Plans, {"foreground_intensity_properties_per_channel": old, **tree})


def parse(kind: type[T], tree: Any) -> T:
    """Check and convert what was read.

    Raises:
        CheckpointError: MODEL_DAMAGED; the message names the entry.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise damaged(f"entry `{where}` of the model's plans") from error


def _find_architecture(tree: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the network's class and its arguments, from the formats of 2.0, of 2.4 and of today."""
    if "architecture" in tree:
        entry = tree["architecture"]
        return str(entry.get("network_class_name")).split(".")[-1], dict(entry.get("arch_kwargs", {}))
    if "network_arch_class_name" in tree:
        name = str(tree["network_arch_class_name"]).split(".")[-1]
        return name, dict(tree.get("network_arch_init_kwargs", {}))
    try:
        stages = len(tree["n_conv_per_stage_encoder"])
        first, most = int(tree["UNet_base_num_features"]), int(tree["unet_max_num_features"])
        options = {
            "n_stages": stages,
            "features_per_stage": [min(first * 2**level, most) for level in range(stages)],
            "kernel_sizes": tree["conv_kernel_sizes"],
            "strides": tree["pool_op_kernel_sizes"],
            "n_conv_per_stage": tree["n_conv_per_stage_encoder"],
            "n_blocks_per_stage": tree["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": tree["n_conv_per_stage_decoder"],
        }
        return str(tree["UNet_class_name"]), options
    except (KeyError, TypeError, ValueError) as error:
        raise damaged("the architecture in plans.json") from error


def _require_known(options: Mapping[str, Any]) -> None:
    """Refuse what changes the network and is not nnU-Net's default.

    Raises:
        CheckpointError: MODEL_UNSUPPORTED, with the option and its value.
    """
    for name, expected in (("norm_op", "InstanceNorm"), ("nonlin", "LeakyReLU"), ("block", "BasicBlockD")):
        value = str(options.get(name) or expected).split(".")[-1]
        if not value.startswith(expected):
            raise refuse(f"a network with {name} `{value}`")
    norm, slope = options.get("norm_op_kwargs") or {}, options.get("nonlin_kwargs") or {}
    usual = {
        "norm_op_kwargs": norm.get("eps", 1e-5) == 1e-5 and norm.get("affine", True),
        "nonlin_kwargs": slope.get("negative_slope", 0.01) == 0.01,
        "nonlin_first": not options.get("nonlin_first"),
        "stem_channels": not options.get("stem_channels"),
        "squeeze_excitation": not options.get("squeeze_excitation"),
    }
    for name, is_usual in usual.items():
        if not is_usual:
            raise refuse(f"a network with {name} `{options[name]}`")


def _read_resampling(tree: Mapping[str, Any], kind: str) -> dict[str, Any]:
    name = tree.get(f"resampling_fn_{kind}")
    if name != "resample_data_or_seg_to_shape":
        raise refuse(f"the resampling `{name}`")
    return dict(tree.get(f"resampling_fn_{kind}_kwargs", {}))
