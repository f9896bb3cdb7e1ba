import pickle

import pytest

from medseg.core import errors
from medseg.core.errors import ConfigError, DataError, GeometryError, MedsegError, is_out_of_memory

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_a_process_border_whole(kind):
    error = pickle.loads(pickle.dumps(kind("wrong", hint="do this", code="SOME_CODE")))  # noqa: S301
    assert (type(error), error.message, error.hint, error.code) == (kind, "wrong", "do this", "SOME_CODE")


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("MedsegError", 1),
        ("ConfigError", 2),
        ("CheckpointError", 2),
        ("DataError", 3),
        ("FormatError", 3),
        ("GeometryError", 3),
        ("ResourceError", 4),
    ],
)
def test_exit_codes_are_those_of_the_interface(name, exit_code):
    assert getattr(errors, name).exit_code == exit_code


def test_every_kind_is_listed_with_an_exit_code_above():
    assert len(KINDS) == 7


def test_a_kind_has_a_code_of_its_own_until_one_is_given():
    assert (GeometryError("x").code, GeometryError("x", code="AFFINE_SINGULAR").code) == (
        "GEOMETRY",
        "AFFINE_SINGULAR",
    )


def test_a_grid_error_is_a_data_error_and_a_config_error_is_not():
    assert issubclass(GeometryError, DataError)
    assert not issubclass(ConfigError, DataError)


def test_the_message_is_what_str_shows():
    assert str(MedsegError("what is wrong", hint="never shown here")) == "what is wrong"


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (OSError("CUDA error: out of memory"), False),
        (MemoryError(), True),
    ],
)
def test_memory_that_runs_out_is_known_by_what_libraries_say(error: Exception, is_it: bool):
    assert is_out_of_memory(error) is is_it
