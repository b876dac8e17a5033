"""The options of the server: what is refused before anything is started."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sgl_specreason import serve

KEY = "a-key-of-the-tests"


def run(*words: str | Path, key: str | None = None) -> Result:
    variables = {"SPECREASON_SERVE_KEY": key}
    return CliRunner().invoke(serve.main, ["--pair", "demo", *map(str, words)], env=variables, catch_exceptions=False)


def refused(*words: str | Path, key: str | None = None) -> str:
    """The one line that is said."""
    result = run(*words, key=key)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_others_than_this_machine_need_a_key(host: str) -> None:
    assert "give a key in $SPECREASON_SERVE_KEY" in refused("--host", host, "--dry-run")
    assert run("--host", host, "--dry-run", key=KEY).exit_code == 0
    assert run("--host", host, "--dry-run", "--serve-key", KEY).exit_code == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(host: str) -> None:
    assert run("--host", host, "--dry-run").exit_code == 0


def test_the_key_is_not_told() -> None:
    result = run("--dry-run", key=KEY)
    assert KEY not in result.output
    assert "would listen on 127.0.0.1:8000" in result.output


@pytest.mark.parametrize("key", ["", "ü", "a\nb", "\x00"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    assert "--serve-key: wants printable ASCII" in refused("--serve-key", key)


WRONG: dict[str, tuple[list[str], str]] = {
    "effort": (["--effort-threshold", "lo=5"], "no effort named 'lo'; did you mean low?"),
    "threshold": (["--effort-threshold", "low=x"], "wants EFFORT=NUMBER"),
    "threshold out of range": (["--effort-threshold", "low=70"], "--effort-threshold"),
    "threshold that is none": (["--effort-threshold", "low=nan"], "--effort-threshold"),
    "instruction": (["--instruction", "/nothing/here"], "--instruction"),
    "places": (["--concurrency", "0"], "--concurrency"),
    "keep alive": (["--keep-alive", "0"], "--keep-alive"),
    "a field": (["--reasoning-field", "thoughts"], "--reasoning-field"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_a_bad_option_is_one_line(words: list[str], said: str) -> None:
    assert said in refused(*words, "--dry-run")


def test_a_port_that_is_taken_is_said_before_an_engine_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused("--port", str(taken.getsockname()[1]))
    assert "cannot be listened on" in line


def test_a_folder_for_records_is_made_before_anything_starts() -> None:
    """One that cannot be is refused at once, and not said in a log when the first reply is to be written."""
    assert "File name too long" in refused("--record", "x" * 300)
