"""Owns the options that say how base speculates for methods with +decode. Knows no command."""

import click

from sgl_specreason.options import together

speculation = together(
    click.option(
        "--decode",
        metavar="ALGORITHM",
        help="How base speculates for methods with +decode: standalone (small drafts its tokens; one vocabulary only), ngram, "
        "or eagle3 (a head, --decode-model).  [default: standalone]",
    ),
    click.option("--decode-tokens", type=int, help="Tokens that it guesses at a time.  [default: 5]"),
    click.option("--decode-model", metavar="MODEL", help="The head of eagle3, or another draft model than small."),
)
