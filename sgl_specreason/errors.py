"""Owns the exceptions of the package.

SpecReasonError
├── UsageError        the user's input is wrong: one line on stderr, exit code 2
├── EngineError       an engine did not start, died, or answered with an error
│   ├── EngineGone    it will not come back; ends the run, what was finished is saved
│   └── RequestError  one request failed; ends its trajectory, not the run
│       ├── Cancelled    nobody waits for its trajectory any more
│       ├── ContextFull  what it holds or asks for does not fit the engine's context or cache
│       └── Aborted   it was ended on purpose (engines/account.py: it holds what the request had cost)
├── ClientGone        a client process of the run ended by itself; ends the run, what was finished is saved
├── RecordError       a run folder cannot be used as asked (a UsageError)
├── WriteError        a run folder cannot be written any more: the disk is full
└── Interrupted       Ctrl-C or SIGTERM; what was finished is saved
"""

from pathlib import Path

SHOWN = 300


class SpecReasonError(Exception):
    """Base of everything that this package raises on purpose. What ends a run early names its `folder`."""

    folder: Path | None = None


class UsageError(SpecReasonError):
    """Something the user gave is wrong; the message says what and what to do."""


class EngineError(SpecReasonError):
    """An SGLang server did not start, died, or is not what was expected."""


class EngineGone(EngineError):
    """A server that does not answer any more and is not waited for any longer."""


class RequestError(EngineError):
    """One request to an engine failed; the message holds the engine's own words."""


class ContextFull(RequestError):
    """A request that is too long for its engine; ends a thought that has grown to this, and fails one that has not begun."""


class Cancelled(RequestError):
    """The trajectory was ended from outside; the message says why."""


class ClientGone(SpecReasonError):
    """One of the processes among which a run's trajectories are shared out ended by itself."""


class RecordError(UsageError):
    """A run folder is damaged or belongs to other settings."""


class WriteError(SpecReasonError):
    """A record or a summary could not be written; what had been written before is whole."""


class Interrupted(SpecReasonError):
    """The run was ended by a signal; `folder` holds what was finished, `code` is the exit code to end with."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.code = code


def one_line(error: BaseException) -> str:
    """What a library's exception says, on one line that is not too long; with its name where it says nearly nothing."""
    words = " ".join(str(error).split())[:SHOWN]
    return words if " " in words else f"{type(error).__name__} {words}".strip()
