"""Signals that ask a process to end, as the exception that lets it close what it has open."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def as_interrupt(*numbers: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt where one of these signals arrives; what handled them before comes back.

    One that is ignored stays ignored: so does nohup ask a process to outlive its terminal. Python delivers
    signals to the main thread only: in another one nothing changes.
    """

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                stack.callback(signal.signal, number, signal.signal(number, interrupt))
        yield
