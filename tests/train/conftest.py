from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from medseg.data.loader import Batch
from medseg.train.loop import Job
from medseg.train.settings import Train
from medseg.train.state import TrainState, start_state

SHAPE = (1, 6, 5, 4)  # C, I, J, K
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batches(epoch: int, iterations: int) -> Iterator[Batch]:
    """Noise, labelled 1 where it is positive; a function of epoch and iteration alone."""
    for iteration in range(iterations):
        source = torch.Generator().manual_seed(1000 * epoch + iteration)
        image = torch.randn((2, *SHAPE), generator=source)
        yield Batch(image, (image[:, 0] > 0).long(), (f"case-{iteration}", "other"))


def loss(logits: Tensor, label: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, label)


@pytest.fixture
def make_state() -> Callable[..., TrainState]:
    def make(**settings: object) -> TrainState:
        torch.manual_seed(0)
        # Batch norm brings buffers of floats and of integers, dropout brings randomness.
        network = nn.Sequential(
            nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Dropout3d(0.3), nn.Conv3d(3, 2, 1)
        )
        return start_state(network, Train(**settings), CPU, uses_scaler=False)

    return make


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(**changes: object) -> Job:
        recipe = {"epochs": 4, "iterations_per_epoch": 3, "validate_every": 1} | {
            name: value for name, value in changes.items() if name in Train.model_fields
        }
        parts = {name: value for name, value in changes.items() if name not in Train.model_fields}
        standard = {
            "settings": Train(**recipe),
            "batches": batches,
            "loss": loss,
            "device": CPU,
            "dtype": torch.float32,
            "dims": 3,
            "seed": 0,
        }
        return Job(**(standard | parts))

    return make
