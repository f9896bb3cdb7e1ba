"""One process at a time in a folder.

The kernel holds the lock (flock), so it ends with its process however that ends, across containers of one
machine too; on NFS Linux asks the server. What is written in the file only names the holder. Where a file
system knows no such lock, the holder's name decides: a dead process of this host is taken over from.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import ResourceError
from medseg.core.files import is_alive, make_folder

NAME = ".lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
GRACE_S = 15.0  # in which the children of a killed process end: they inherited its lock
POLL_S = 0.1
Holder = dict[str, Any]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs.

    Raises:
        ResourceError: RUN_LOCKED, another process holds it; its host and process id are named.
    """
    path = make_folder(folder) / NAME
    descriptor = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: nobody can have taken this file
        os.close(descriptor)


def _take(path: Path) -> int:
    """Return the descriptor of the lock's file, locked and with our name in it."""
    deadline = time.monotonic() + GRACE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _is_locked(descriptor):
            if not _is_same_file(descriptor, path):  # its last holder removed it in between
                os.close(descriptor)
                continue
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since_s": int(time.time())}
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            return descriptor
        other = _read(descriptor)
        os.close(descriptor)
        is_dead = other.get("host") == socket.gethostname() and not is_alive(other["pid"])
        if not is_dead or time.monotonic() > deadline:
            raise _refuse(other)
        time.sleep(POLL_S)


def _is_locked(descriptor: int) -> bool:
    """Lock if it can be; where the file system knows no locks, go by the holder's name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        holder = _read(descriptor)
        return not holder or (holder["host"] == socket.gethostname() and not is_alive(holder["pid"]))
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder:
    try:
        tree = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # empty: its holder is about to write its name
        return {}
    return tree if isinstance(tree, dict) and {"host", "pid"} <= tree.keys() else {}


def _refuse(holder: Holder) -> ResourceError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    minutes = f", since {(time.time() - holder['since_s']) / 60:.0f} minutes" if "since_s" in holder else ""
    return ResourceError(
        f"{who} is at work in this folder{minutes}",
        hint="wait for it, end it, or use another output folder",
        code="RUN_LOCKED",
    )
