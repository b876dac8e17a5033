"""Owns the forking of SGLang's program states without a thread for each. Knows nothing of what is written on them."""

from typing import Any

from sglang.lang.interpreter import ProgramState, StreamExecutor

from sgl_specreason.engines.endpoint import Endpoint


def fork(s: ProgramState, engine: Endpoint | None = None, **notes: str | int) -> ProgramState:
    """A state that begins as `s` is, on `engine` if given; `notes` are for its endpoint (`Endpoint.generate`).

    As `s.fork(1)`, but run by whoever appends to it: the frontend gives every fork a thread, which costs more than all
    the rest of a fork, and whose finaliser can deadlock inside `threading` when the garbage collector runs it while
    another thread starts.
    """
    parent = s.stream_executor
    executor = StreamExecutor(
        engine or parent.backend,
        parent.arguments,
        parent.default_sampling_para,
        parent.chat_template,
        stream=False,
        use_thread=False,
    )
    executor.variables = parent.variables | notes
    executor.text_ = parent.text_
    # where nothing came before it is no fork but a text of its own, all of which only grows
    executor.fork_start_text_pos = len(parent.text_) or None
    return ProgramState(executor)


def backend(s: ProgramState) -> Endpoint:
    """The engine behind a state."""
    engine: Endpoint = s.stream_executor.backend
    return engine


def written(s: ProgramState, name: str) -> tuple[str, dict[str, Any]]:
    """The text of a `gen`, or the choice of a `select`, and its meta_info."""
    return s[name], s.get_meta_info(name)
