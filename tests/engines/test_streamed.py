"""An answer that comes in pieces: read as it grows, and tried again where it breaks off or is no answer."""

import json
from typing import Any

import pytest
from fake_engine import Payload, Raw
from urllib3.exceptions import ProtocolError

from sgl_specreason.engines.streamed import Streamed
from sgl_specreason.engines.transport import Health, Transport
from sgl_specreason.errors import RequestError


def event(text: str, finish: Any = None, **more: Any) -> bytes:
    content = {"text": text, "output_ids": list(map(ord, text)), "meta_info": {"finish_reason": finish}}
    return b"data: " + json.dumps(content | more).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
LAST = event("abcd", {"type": "stop"})
GARBAGE = [
    b"data: {\xff no JSON\n\n",
    b"data: []\n\n",
    b"data: 7\n\n",
    b"data: {}\n\n",
    b'data: {"text": 1}\n\n',
    b'data: {"text": "a", "meta_info": null}\n\n',
]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("incremental", [False, True])
def test_the_text_so_far_is_heard_and_the_whole_answer_comes(incremental: bool, size: int) -> None:
    """However its bytes are cut into pieces; what the last event says is not heard."""
    heard: list[str] = []
    whole = [event("ab"), event("abc"), LAST, DONE]
    sent = b": a comment\n\n" + b"".join(
        [event("ab"), event("c"), event("d", {"type": "stop"}), DONE] if incremental else whole
    )
    answer = Streamed(heard.append, incremental=incremental).read(
        sent[at : at + size] for at in range(0, len(sent), size)
    )
    assert heard == ["ab", "abc"]
    assert json.loads(answer)["text"] == "abcd"
    assert json.loads(answer)["output_ids"] == [97, 98, 99, 100]


@pytest.mark.parametrize("end", [b"", b"data: {", *GARBAGE], ids=repr)
def test_what_breaks_off_or_is_no_event_is_a_broken_answer(end: bytes) -> None:
    """A line of garbage failed the whole trajectory, with the words of a parser."""
    with pytest.raises(ProtocolError):
        Streamed(lambda text: None, incremental=False).read([event("ab"), end])


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
def test_it_is_tried_again(garbage: bytes, fake_engine: Any) -> None:
    replies = [Raw(200, event("ab") + garbage), Raw(200, event("ab"))]
    engine = fake_engine(lambda prompt, payload: replies.pop(0) if replies else "abcd\x03")
    answer = asked(engine.url)
    assert answer["text"] == "abcd\x03"
    assert len(engine.requests) == 3


def test_an_error_of_the_engine_is_its_last_word(fake_engine: Any) -> None:
    """SGLang sends one where the request itself is wrong."""
    error = b'data: {"error": {"message": "too long", "code": 400}}\n\n'
    engine = fake_engine(lambda prompt, payload: Raw(200, error + DONE))
    with pytest.raises(RequestError, match="too long"):
        asked(engine.url)
    assert len(engine.requests) == 1


def asked(url: str) -> Payload:
    transport = Transport(url, role="base", api_key=None, connections=2, timeout_s=5.0, health=Health(patience_s=5.0))
    data = {"input_ids": [65], "sampling_params": {"max_new_tokens": 9}, "stream": True}
    streamed = Streamed(lambda text: None, incremental=False)
    try:
        return transport.call("POST", "/generate", data, patient=True, streamed=streamed).content
    finally:
        transport.stop()
