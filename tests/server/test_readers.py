"""A recorded stream shows the same texts in Continue and Open WebUI as the reply that is not streamed, however it is cut.

`streams/NAME.sse` are the bytes of the server on the bundled pair, `streams/NAME.json` the same request's whole reply. They
were taken with `--keep-alive 0.02`, so that chunks without text stand between the others; of each row of these two are kept.
"""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_readers import READERS, Shown, Unreadable, continue_dev, open_webui

STREAMS = sorted((Path(__file__).parent / "streams").glob("*.sse"))


def whole(stream: Path) -> Shown:
    """What the reply says that is not streamed."""
    message = json.loads(stream.with_suffix(".json").read_text())["choices"][0]["message"]
    return Shown(message["reasoning_content"] or "", message["content"])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_there_are_recorded_streams() -> None:
    assert len(STREAMS) >= 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
@given(places=st.lists(st.integers(0, 1 << 20), max_size=40))
def test_the_texts_are_those_of_the_whole_reply(stream: Path, reader: str, places: list[int]) -> None:
    assert READERS[reader](cut(stream.read_bytes(), places)) == whole(stream)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_byte_by_byte(stream: Path, reader: str) -> None:
    assert READERS[reader](bytes([byte]) for byte in stream.read_bytes()) == whole(stream)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_every_line_is_data(stream: Path) -> None:
    """No comments and no names of events: each would be the end, or an error, for some client."""
    data = stream.read_bytes()
    assert data.endswith(b"data: [DONE]\n\n")
    assert all(part.startswith(b"data: ") and b"\n" not in part for part in data.removesuffix(b"\n\n").split(b"\n\n"))


def event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


def test_what_the_server_must_not_send() -> None:
    """The traps are there: what Continue makes of `: ping` and of a delta with both texts, and both of an error."""
    assert continue_dev([event(content="a") + b": ping\n\n" + event(content="lost")]) == Shown("", "a")
    assert continue_dev([event(content="a", reasoning_content="lost")]) == Shown("", "a")
    for reader in READERS.values():
        with pytest.raises(Unreadable, match="broken"):
            reader([b'data: {"error": {"message": "broken"}}\n\n'])
    with pytest.raises(Unreadable, match="too big"):
        open_webui([event(content="a" * (1 << 16))])
    with pytest.raises(Unreadable, match="thought"):
        open_webui([event(content="<think>a</think>b")])
