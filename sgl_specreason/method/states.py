"""Owns the forking of SGLang's program states without a thread for each. Knows nothing of what is written on them."""

from sglang.lang.interpreter import ProgramState, StreamExecutor

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.text.context import Part


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
    if trajectory := parent.arguments.get("trajectory"):  # what stands in the text by now, and what will be appended
        executor.variables |= {"kept": len(trajectory.contexts.kept), "parts": ()}
    executor.text_ = parent.text_
    return ProgramState(executor)


def append(s: ProgramState, *parts: Part) -> None:
    """Appends what a model wrote, or texts of ours."""
    for part in parts:
        s += part if isinstance(part, str) else part.text
    noted(s, *parts)


def noted(s: ProgramState, *parts: Part) -> None:
    """Has the endpoint know what stands at the end of a fork's text: its ids are made of these parts."""
    s.set_var("parts", (*s.stream_executor.variables["parts"], *parts))


def backend(s: ProgramState) -> Endpoint:
    """The engine behind a state."""
    engine: Endpoint = s.stream_executor.backend
    return engine
