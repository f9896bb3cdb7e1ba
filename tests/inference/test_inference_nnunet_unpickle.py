"""Foreign checkpoints: numbers are read, whatever runs something is refused by name."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.core.errors import CheckpointError
from medseg.inference.model import load_model
from medseg.inference.nnunet.unpickle import load_checkpoint
from tests.nnunet_folders import write_results

IS_ZIP = pytest.mark.parametrize("is_zip", [True, False])


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def make_call(name: str, fired: Path) -> Call:
    shell = Call(os.system, f"touch {fired}")
    tensor = Call(torch._utils._rebuild_tensor_v2, shell, 0, (1,), (1,), False, OrderedDict())
    return {"system": shell, "eval": Call(eval, f"open({str(fired)!r}, 'w')"), "tensor": tensor}[name]


def refuse(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return caught.value


@IS_ZIP
@pytest.mark.parametrize("number", [np.float64(2.5), np.float32(-1.5), np.int64(3), np.bool_(True)])
def test_numpys_scalars_become_plain_numbers(tmp_path: Path, number: Any, is_zip: bool):
    path = tmp_path / "a.pth"
    tree = {"best": number, "weights": OrderedDict(a=torch.ones(2))}
    torch.save(tree, path, _use_new_zipfile_serialization=is_zip)
    found = load_checkpoint(path)
    assert type(found["best"]) in (float, int, bool) and found["best"] == number
    assert torch.equal(found["weights"]["a"], torch.ones(2))


def test_a_scalar_of_the_other_byte_order_keeps_its_value(tmp_path: Path):
    # numpy itself turns such scalars, so the pickle is written by hand: dtype(">f8") and its bytes.
    class Big:
        def __reduce__(self) -> Any:
            scalar = np.float64(1).__reduce__()[0]
            return scalar, (np.dtype(">f8"), np.array(2.5, ">f8").tobytes())

    torch.save({"best": Big()}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")["best"] == 2.5


@IS_ZIP
@pytest.mark.parametrize("name", ["system", "eval", "tensor"])
def test_a_pickle_bomb_does_not_fire_and_is_named(tmp_path: Path, name: str, is_zip: bool):
    fired, path = tmp_path / "fired", tmp_path / "a.pth"
    tree = {"network_weights": {}, "init_args": make_call(name, fired)}
    torch.save(tree, path, _use_new_zipfile_serialization=is_zip)
    error = refuse(path)
    assert error.code == "CHECKPOINT_UNSAFE" and not fired.exists()
    assert f"{'eval' if name == 'eval' else 'system'}`" in error.message


def test_the_bomb_would_fire_elsewhere(tmp_path: Path):
    fired = tmp_path / "fired"
    pickle.loads(pickle.dumps(make_call("system", fired)))  # noqa: S301
    assert fired.exists()


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path: Path):
    fired, path = tmp_path / "fired", tmp_path / "a.pth"
    path.write_bytes(pickle.dumps(make_call("system", fired), protocol=4))
    assert refuse(path).code == "CHECKPOINT_UNSAFE" and not fired.exists()


@pytest.mark.parametrize("value", [np.dtype("O"), np.zeros(2), np.str_("a")])
def test_of_numpy_only_plain_numbers_are_taken(tmp_path: Path, value: Any):
    torch.save({"a": value}, tmp_path / "a.pth")
    error = refuse(tmp_path / "a.pth")
    assert error.code == "CHECKPOINT_UNSAFE" and "numpy" in error.message


def test_a_scalar_of_something_else_is_refused(tmp_path: Path):
    scalar = np.float64(1).__reduce__()[0]
    torch.save({"a": Call(scalar, "f8", b"12345678")}, tmp_path / "a.pth")
    assert refuse(tmp_path / "a.pth").code == "CHECKPOINT_UNSAFE"


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_checkpoint_is_damaged(tmp_path: Path, content: bytes):
    (tmp_path / "a.pth").write_bytes(content)
    assert refuse(tmp_path / "a.pth").code == "MODEL_DAMAGED"


def test_a_checkpoint_that_is_no_mapping_is_damaged(tmp_path: Path):
    torch.save([1], tmp_path / "a.pth")
    assert refuse(tmp_path / "a.pth").code == "MODEL_DAMAGED"


def test_a_hostile_results_folder_is_refused_as_a_whole(tmp_path: Path):
    fired = tmp_path / "fired"
    folder = write_results(tmp_path, logging=make_call("system", fired))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, torch.device("cpu"))
    assert caught.value.code == "CHECKPOINT_UNSAFE" and not fired.exists()
