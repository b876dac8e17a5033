"""Owns the command `python -m sgl_specreason.serve`: options in, exit code out. Nothing imports it.

Example: python -m sgl_specreason.serve --pair demo
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sgl_specreason import options
from sgl_specreason.command import Command, fail, say
from sgl_specreason.errors import UsageError
from sgl_specreason.settings import policy, policy_of

if TYPE_CHECKING:
    from sgl_specreason.plan.options import Options
    from sgl_specreason.server.api import Api
    from sgl_specreason.server.call import SpecReason
    from sgl_specreason.server.completions import Settings

SECONDS = click.FloatRange(0.01, 86400)


@click.command(cls=Command)
@options.models("; auto picks by the GPUs found and says why.  [default: auto; demo where there is no GPU]")
@options.replicas
@options.reach(30)
@options.preset
@policy
@options.prompts("Templates of the judge.  [default: ./prompts, else the checkout's, else the packaged ones]")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; others than this machine need a key."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--serve-key",
    envvar="SPECREASON_SERVE_KEY",
    metavar="KEY",
    help="What clients must send as their API key. Not the engines' key.  [default: $SPECREASON_SERVE_KEY, else none]",
)
@click.option(
    "--served-model-name", default="specreason", show_default=True, metavar="NAME", help="The method's model id."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=256,
    show_default=True,
    help="Replies that are worked on at once, as far as both caches hold them.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0),
    default=1024,
    show_default=True,
    help="Replies that may wait; one more gets 429.",
)
@click.option("--queue-timeout", type=SECONDS, metavar="SECONDS", help="Longest wait for a place.  [default: none]")
@click.option("--deadline", type=SECONDS, metavar="SECONDS", help="Longest time for a reply.  [default: none]")
@click.option(
    "--drain", type=SECONDS, default=60, show_default=True, metavar="SECONDS", help="For what is under way at the end."
)
@click.option(
    "--keep-alive", type=SECONDS, default=10, show_default=True, metavar="SECONDS", help="A stream's longest silence."
)
@click.option(
    "--stream-interval",
    type=SECONDS,
    default=0.05,
    show_default=True,
    metavar="SECONDS",
    help="Text is merged for so long.",
)
@click.option(
    "--write-timeout",
    type=SECONDS,
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="For a client that does not read.",
)
@click.option(
    "--max-body", type=click.IntRange(1), default=8_000_000, show_default=True, metavar="BYTES", help="Longest request."
)
@click.option(
    "--reasoning-field",
    type=click.Choice(["reasoning_content", "reasoning", "both"]),
    default="reasoning_content",
    show_default=True,
    help="How a thought is called: as SGLang has it, as vLLM has it, or both.",
)
@click.option(
    "--effort-threshold",
    "effort_thresholds",
    multiple=True,
    metavar="EFFORT=VALUE",
    help="The threshold that goes with a reasoning_effort, as low=5; repeatable.  [default: an effort changes the budget only]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="URL",
    help="A page that may ask; repeatable.",
)
@click.option("--instruction", type=options.PATH, metavar="FILE", help="A text that is put after each question.")
@click.option(
    "--record",
    type=options.PATH,
    metavar="DIR",
    help="Write each trajectory there as a run folder does, questions and replies in plain text, for `report` and the plots.  "
    "[default: nothing is stored]",
)
@click.option("--metrics/--no-metrics", default=True, show_default=True, help="Numbers for Prometheus at /metrics.")
@options.dry_run("the engines' commands and the settings")
def main(**given: Any) -> None:
    """Serves a pair of models with SpecReason behind an OpenAI-compatible API, with a page to talk to.

    POST /v1/chat/completions with the models specreason, base, small and base-direct; docs/server.md says what is honoured.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    asked = _options(given)
    key = given["serve_key"]
    if key is not None and not (key and key.isascii() and key.isprintable()):
        raise UsageError("--serve-key: wants printable ASCII, and not nothing")
    from sgl_specreason.engines.keeper import LOOPBACK

    if given["host"] not in LOOPBACK and key is None:
        raise UsageError(
            f"--host {given['host']}: others than this machine could ask; give a key in $SPECREASON_SERVE_KEY"
        )
    access, settings = options.access_of(given), _settings(given)
    from sgl_specreason.server.pair import planned

    plan = planned(asked)
    thresholds = _thresholds(given["effort_thresholds"], plan.variants[0].policy)
    if given["dry_run"]:
        click.echo(_described(plan, given))
        return
    from sgl_specreason.server.process import Process, listening

    record: Path | None = given["record"]
    if record is not None:
        from sgl_specreason.results.folder import check_writable

        check_writable(record, "--record")
        try:
            record.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--record {record}: cannot be written: {error.strerror}") from None
        say(f"RECORDING: all questions and replies are stored in plain text in {record}")
    listener = listening(given["host"], given["port"])

    def opened() -> "SpecReason":
        from sgl_specreason.server.call import SpecReason

        return SpecReason.over(
            plan, asked, access, places=given["concurrency"], queue=given["max_queue"], logs=None, say=say
        )

    def made(house: "SpecReason") -> "Api":
        from sgl_specreason.server.api import Api, served
        from sgl_specreason.server.watch import Watch

        watch = Watch(house.pair.engines, access.patience_s)
        return Api(house, served(house.pair, given["served_model_name"], thresholds), watch, settings)

    host = f"[{given['host']}]" if ":" in given["host"] else given["host"]
    process = Process(
        listener=listener,
        open_house=opened,
        make=made,
        say=say,
        ready=f"ready: http://{host}:{given['port']}/v1, and a page at http://{host}:{given['port']}/",
        drain_s=given["drain"],
        write_timeout_s=given["write_timeout"],
    )
    try:
        process.run()
    except KeyboardInterrupt:
        fail("interrupted before the server was ready; nothing is left running", process.code)


def _options(given: dict[str, Any]) -> "Options":
    from sgl_specreason.plan.options import Options

    asked = {
        field.name: given[field.name]
        for field in fields(Options)
        if field.name in given and field.name != "concurrency"
    }
    return Options(**asked | policy_of(given))


def _settings(given: dict[str, Any]) -> "Settings":
    from sgl_specreason.server.answering import Patience
    from sgl_specreason.server.completions import Settings
    from sgl_specreason.server.reply import FIELDS

    return Settings(
        key=given["serve_key"],
        most_bytes=given["max_body"],
        keep_alive_s=given["keep_alive"],
        interval_s=given["stream_interval"],
        patience=Patience(queue_s=given["queue_timeout"], deadline_s=given["deadline"]),
        thought_names=FIELDS[given["reasoning_field"]],
        cors_origins=given["cors_origins"],
        instruction=_text(given["instruction"]),
        metrics=given["metrics"],
    )


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--instruction {path}: cannot be read as UTF-8 text: {error}") from None


def _thresholds(given: tuple[str, ...], policy: Any) -> dict[str, float]:
    from msgspec import structs

    from sgl_specreason.server.budgets import SHARES
    from sgl_specreason.typed import nearest

    found = {}
    for word in given:
        effort, _, value = word.partition("=")
        if effort not in SHARES:
            raise UsageError(f"--effort-threshold {word}: no effort named {effort!r}{nearest(effort, SHARES)}")
        try:
            found[effort] = float(value)
            structs.replace(policy, threshold=found[effort])
        except UsageError as error:
            raise UsageError(f"--effort-threshold {word}: {error}") from None
        except ValueError:
            raise UsageError(f"--effort-threshold {word}: wants EFFORT=NUMBER") from None
    return found


def _described(plan: Any, given: dict[str, Any]) -> str:
    from msgspec import structs

    lines = [plan.why] if plan.why else []
    lines += [f"{role}: {model}" for role, model in plan.models.items()]
    lines += [f"{spec.title}: {spec.shell()}" for spec in plan.specs]
    lines += [f"{name} = {value}" for name, value in structs.asdict(plan.variants[0].policy).items()]
    return "\n".join([*lines, f"would listen on {given['host']}:{given['port']}"])


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.serve")
