"""The options that commands share: one text for each, and one for each setting of the method."""

from typing import Any

import click
import pytest

from sgl_specreason import eval, options, replay, settings
from sgl_specreason.command import Command
from sgl_specreason.method.policy import Policy

SHARED = {
    "base_model", "small_model", "base_url", "small_url", "api_key", "request_timeout", "retry_for", "out", "resume",
}  # fmt: skip
"""What needs no words of a command's own."""
OWN_WORDS = {"pair", "prompts", "seed", "dry_run"}


def declared(command: click.Command) -> dict[str, dict[str, Any]]:
    """Everything that click knows about each option."""
    context = click.Context(command)
    return {str(option.name): option.to_info_dict() for option in command.get_params(context)}


def test_eval_and_replay_have_the_same_options_with_the_same_texts() -> None:
    of_eval, of_replay = declared(eval.main), declared(replay.main)
    assert {name: of_eval[name] for name in SHARED} == {name: of_replay[name] for name in SHARED}
    for name in OWN_WORDS:
        assert of_eval[name] | {"help": ""} == of_replay[name] | {"help": ""}


def test_each_setting_of_the_method_is_an_option_that_nobody_has_to_give() -> None:
    assert {*settings.POLICY} == {*Policy.__struct_fields__} | {"match_acceptance"}
    of_eval = declared(eval.main)
    assert all(of_eval[name]["default"] is None and of_eval[name]["help"] for name in settings.POLICY)


def test_groups_fit_a_command_that_has_no_bench() -> None:
    """A server or a judge's test bench takes the groups that it needs and gets its settings from them."""
    found: dict[str, Any] = {}

    @click.command(cls=Command)
    @options.models("")
    @options.access
    @options.preset
    @settings.policy
    @options.prompts("Templates.")
    @options.dry_run("the settings")
    def serve(**given: Any) -> None:
        found.update(settings.policy_of(given), access=options.access_of(given))

    words = [
        "--base-url",
        "http://b",
        "--small-url",
        "http://s",
        "--retry-for",
        "7",
        "--threshold",
        "5",
        "--no-salvage",
    ]
    with pytest.raises(SystemExit) as left:
        serve.main(words)
    assert left.value.code in (None, 0)
    assert found["access"].urls == ("http://s", "http://b")
    assert (found["access"].patience_s, found["access"].request_timeout_s) == (7, 1800)
    given = {name: value for name, value in found["policy"].items() if value is not None}
    assert given == {"threshold": 5, "salvage": False}
    assert found["match_acceptance"] is None
