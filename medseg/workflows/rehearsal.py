"""Network, loss and optimizer of a config, tried once without data, so that a wrong value fails at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from medseg.config import Config
from medseg.core.errors import ConfigError
from medseg.core.select import select
from medseg.data.loading import region_classes
from medseg.data.plan import choose_topology
from medseg.losses import LOSSES, deep_supervised, per_region
from medseg.models import MODELS, Grid
from medseg.train.optimizers import OPTIMIZERS
from medseg.train.sketch import sketch
from medseg.workflows.fold import name_ends

LEVELS = 4  # of a grid that stands in for the plan's
# What depends on the plan's levels and edges: on a grid that stands in for it these say nothing.
OF_THE_PLAN = ("GRID_", "FEATURES_TOO_FEW", "RATE_TOO_LARGE", "OUTPUT_STRIDE")


def rehearse(config: Config) -> None:
    """Build network, loss and optimizer, and make one step of noughts.

    Raises:
        ConfigError: OPTION_INVALID for a value that one of them cannot take, or the code of its own.
    """
    grid = _known_grid(config)
    outputs = _try_network(config, grid or _likely_grid(config), is_certain=grid is not None)
    with _naming("loss", config.loss.name):
        _try_loss(config, outputs)
    with _naming("optimizer", config.train.optimizer):
        _try_optimizer(config)


@contextmanager
def _naming(kind: str, name: str) -> Iterator[None]:
    """Give a value that is of the wrong type or size a code."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{kind} `{name}` cannot be made with its options: {error}",
            hint=f"correct the value; `medseg list` shows what {kind} options there are",
            code="OPTION_INVALID",
        ) from error


def _known_grid(config: Config) -> Grid | None:
    """Return the plan's grid, where the config says all that it depends on."""
    patch, spacing = config.grid.patch, config.grid.spacing_mm
    if patch is None or spacing is None:
        return None
    dims = config.grid.dims or (2 if patch[2] == 1 else 3)
    strides, kernels = choose_topology(patch if dims == 3 else (patch[0], patch[1], 1), spacing)
    steps, sizes = (tuple(level[:dims] for level in levels) for levels in (strides, kernels))
    return Grid(dims, patch[:dims], spacing[:dims], steps, sizes)


def _likely_grid(config: Config) -> Grid:
    dims = config.grid.dims or 3
    features = config.model.options.get("features")
    levels = min(LEVELS, len(features)) if isinstance(features, (list, tuple)) and features else LEVELS
    strides = ((1,) * dims, *[(2,) * dims] * (levels - 1))
    return Grid(dims, (2 ** (levels + 1),) * dims, (1.0,) * dims, strides, ((3,) * dims,) * levels)


def _try_network(config: Config, grid: Grid, *, is_certain: bool) -> int:
    """Return how many outputs the network has in training, 0 where it is one alone or not known."""
    ends = name_ends(config)
    build = select("model", MODELS, config.model.name, config.model.options)
    try:
        with _naming("model", config.model.name):
            network = sketch(partial(build, len(ends.channels), len(ends.classes), grid))
    except ConfigError as error:
        if is_certain or not error.code.startswith(OF_THE_PLAN):
            raise
        return 0
    return _count_outputs(network, len(ends.channels), grid) if is_certain else 0


def _count_outputs(network: nn.Module, channels: int, grid: Grid) -> int:
    image_BC = torch.zeros(2, channels, *grid.patch, device="meta")
    output = network.train()(image_BC)
    return 0 if isinstance(output, Tensor) else len(output)


def _try_loss(config: Config, outputs: int) -> None:
    loss: Callable[[Tensor, Tensor], Tensor]
    loss = select("loss", LOSSES, config.loss.name, config.loss.options)
    if regions := region_classes(config.data):
        loss = per_region(loss, regions)
    supervised = deep_supervised(loss, config.train.supervision_weights or None)
    shape = (8,) * (config.grid.dims or 3)
    logits_BC = torch.zeros(1, len(name_ends(config).classes), *shape)
    supervised([logits_BC] * outputs if outputs else logits_BC, torch.zeros(1, *shape, dtype=torch.int64))


def _try_optimizer(config: Config) -> None:
    settings, ends = config.train, name_ends(config)
    build = select("optimizer", OPTIMIZERS, settings.optimizer, settings.optimizer_options)
    counts = len(ends.channels), len(ends.classes)
    hidden = sum(counts) + 1  # neither of the two
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(
            nn.Conv2d(counts[0], hidden, 1), nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, counts[1], 1)
        )
    optimizer = build(network, counts, settings.learning_rate, settings.weight_decay)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
