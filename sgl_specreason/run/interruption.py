"""Owns what Ctrl-C and SIGTERM do to a run: the first one ends it in good order, the second one at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgl_specreason.errors import ClientGone, EngineGone, Interrupted, WriteError

NOTICE = b"\ninterrupted: saving what is finished and ending the engines (once more leaves at once)\n"


class Interruption:
    """The signals that one command has had. `halt` is set by the first one that comes while the run looks at it (`heeded`)."""

    def __init__(self) -> None:
        self.halt = threading.Event()
        self._number = 0
        self._heeded = False

    @property
    def code(self) -> int:
        """The exit code that tells of the signal."""
        return 128 + (self._number or signal.SIGINT)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Takes the two signals. Outside `heeded` the first one raises KeyboardInterrupt."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Where the first signal only sets `halt`: an exception could hit the writing of a record."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False

    def _signalled(self, number: int, frame: object) -> None:
        if self._number:
            os._exit(128 + number)  # the guards end the engines
        self._number = number
        os.write(2, NOTICE)  # a print could be inside another one
        if not self._heeded:
            raise KeyboardInterrupt
        self.halt.set()


@contextmanager
def naming_the_folder(top: Path, interruption: Interruption) -> Iterator[None]:
    """Whatever ends early what writes to this folder has it: the last words say where things are."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(top, interruption.code) from None
    except (ClientGone, EngineGone, WriteError) as error:
        error.folder = top
        raise
