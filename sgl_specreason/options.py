"""Owns the options that several commands have, each with its text, and what becomes of them. Knows no command.

A command takes a group as a decorator (`@options.access`) and reads it from what click hands over (`access_of(given)`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sgl_specreason.run.serving import Access

Declaration = Callable[[Any], Any]
PATH = click.Path(path_type=Path)
OF_PRESET = "default: the preset's"
OF_BENCH = "default: the bench's"
MODELS = ("pair", "base_model", "small_model", "base_url", "small_url")
"""What names the two models, or the servers that have them."""


def together(*declarations: Declaration) -> Declaration:
    """One decorator for several options, which `--help` shows in this order."""

    def declared(command: Any) -> Any:
        for declaration in reversed(declarations):
            command = declaration(command)
        return command

    return declared


def models(words: str) -> Declaration:
    """The two models or their servers (MODELS); `words` say what --pair is when it is not given."""
    return together(
        click.option("--pair", metavar="NAME|FILE.toml", help=f"Base and small model{words}"),
        click.option(
            "--base-model", metavar="MODEL", help="A folder or hub id, with --small-model, in place of --pair."
        ),
        click.option("--small-model", metavar="MODEL", help="A folder or hub id, with --base-model."),
        click.option(
            "--base-url",
            metavar="URL",
            help="A running SGLang server or router for base, with --small-url; starts nothing. --pair then says what they "
            "serve, --base-model and --small-model where tokenizers are, if the servers' own paths are not on this machine.",
        ),
        click.option(
            "--small-url", metavar="URL", help="A running SGLang server or router for small, with --base-url."
        ),
    )


replicas = together(
    click.option(
        "--base-replicas",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Start base so many times behind SGLang's router, each on cards of its own (docs/cluster.md).",
    ),
    click.option("--small-replicas", type=int, default=1, show_default=True, metavar="N", help="The same for small."),
)

clients = click.option(
    "--clients",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Share the trajectories out among so many processes of this client: one keeps up with about 256 side by side.",
)


def reach(retry_for: int) -> Declaration:
    """The engines' key, and for how long they are waited for: `retry_for` seconds by default where one cannot be reached."""
    return together(
        click.option(
            "--api-key",
            envvar="SPECREASON_API_KEY",
            metavar="KEY",
            help="For the running servers, or for those that are started. On a command line it stands in every listing of "
            "processes: use the variable.  [default: $SPECREASON_API_KEY, else none, and a random one for those that are "
            "started]",
        ),
        click.option(
            "--request-timeout",
            type=click.FloatRange(0.1, 86400),
            default=1800,
            show_default=True,
            metavar="SECONDS",
            help="A request without an answer after this is tried once more, then its trajectory fails.",
        ),
        click.option(
            "--retry-for",
            type=click.FloatRange(0, 86400),
            default=retry_for,
            show_default=True,
            metavar="SECONDS",
            help="How long a running server that cannot be reached is waited for before what needs it ends.",
        ),
    )


access = together(
    reach(120),
    click.option(
        "--keep-cache/--flush-cache",
        default=None,
        help="Whether what others have in the servers' caches stays there. A run uses nothing of it in either case.  "
        "[default: kept on running servers, emptied on those that are started]",
    ),
)


def access_of(given: Mapping[str, Any]) -> "Access":
    """How the engines are reached, by `models` and `access` or `reach`. Raises UsageError for a key that cannot be sent."""
    from sgl_specreason.run.serving import Access

    return Access(
        urls=(given["small_url"], given["base_url"]) if given["base_url"] else None,
        api_key=given["api_key"],
        request_timeout_s=given["request_timeout"],
        patience_s=given["retry_for"],
        keep_cache=given.get("keep_cache"),
    )


preset = click.option(
    "--preset",
    default="default",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Named settings of the method; the bench's budget and sampling come before it, options before both.",
)


def prompts(words: str) -> Declaration:
    """The folder of templates."""
    return click.option("--prompts", type=PATH, metavar="DIR", help=words)


def seed(words: str) -> Declaration:
    """What every draw comes from; `words` say what is drawn."""
    return click.option("--seed", type=int, default=0, show_default=True, help=f"Seeds {words}.")


def dry_run(words: str) -> Declaration:
    """Shows what would be done; `words` say what is shown."""
    return click.option("--dry-run", is_flag=True, help=f"Print {words}; start and write nothing.")


verbose = click.option("--verbose", is_flag=True, help="With --dry-run: every setting, too.")

runs = together(
    click.option(
        "--out",
        type=PATH,
        default=Path("runs"),
        show_default=True,
        metavar="DIR",
        help="Where the run folder is made.",
    ),
    click.option(
        "--resume",
        type=PATH,
        metavar="RUN",
        help="Go on with this run folder: all other options are taken from it, and those given besides must agree.  "
        "[default: a new run]",
    ),
)
