"""Owns how the tools read their command lines: what is wrong is one line and exit code 2, as in every other command."""

import argparse
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong and nothing else."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


def at_least(low: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    """The type of an option that is a number, `low` or more."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text}: must be at least {low:g}")
        return value

    return number


def counts(text: str) -> list[int]:
    """The type of an option that is several of them: "64,256"."""
    return [int(at_least(1)(word)) for word in text.split(",")]
