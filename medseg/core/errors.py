"""Everything medseg raises on purpose, on one page.

MedsegError
├── ConfigError        2  the request itself is wrong: unknown key, name, option, changed settings
├── DataError          3  a case is wrong; the other cases go on
│   ├── FormatError       the file cannot be decoded as what it claims to be
│   └── GeometryError     the grid is impossible, ambiguous or disagrees with another
├── CheckpointError    2  a model or checkpoint is damaged, foreign or does not fit
└── ResourceError      4  the machine: disk, memory, device, tracking server

The number is the exit code. `message` says what is wrong with the given values, `hint` the next
action, `code` is stable and greppable. A message never holds a patient identifier or a path: the
caller knows which case or file it asked for and puts that in front.
"""


class MedsegError(Exception):
    """Base of all errors that medseg raises on purpose."""

    exit_code = 1
    default_code = "MEDSEG"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[object, ...]:
        """Keep hint and code when the error crosses a process border."""
        return _rebuild, (type(self), self.message, self.hint, self.code)


def _rebuild(kind: type[MedsegError], message: str, hint: str, code: str) -> MedsegError:
    return kind(message, hint=hint, code=code)


# torch on a CPU; CUDA, cuDNN and cuBLAS where they allocate past torch.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy, torch on CUDA or torch on a CPU ran out of memory; torch is not imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


class ConfigError(MedsegError):
    """The request is wrong: an unknown key, name or option, or settings that changed."""

    exit_code = 2
    default_code = "CONFIG"


class DataError(MedsegError):
    """One case is wrong; the others go on."""

    exit_code = 3
    default_code = "DATA"


class FormatError(DataError):
    """A file cannot be decoded as what it claims to be."""

    default_code = "FORMAT"


class GeometryError(DataError):
    """A grid is impossible, ambiguous or disagrees with another."""

    default_code = "GEOMETRY"


class CheckpointError(MedsegError):
    """A model or checkpoint is damaged, foreign or does not fit."""

    exit_code = 2
    default_code = "CHECKPOINT"


class ResourceError(MedsegError):
    """The machine cannot do it: disk, memory, device or tracking server."""

    exit_code = 4
    default_code = "RESOURCE"
