"""The command `fiona`: finds the command named, parses its options and calls it.

Each command is one function in `fionalm.commands`, imported only when it is asked for, so that `fiona --help`
answers at once. A user's mistake ends with one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fionalm import __version__
from fionalm.errors import UserError, choice_error


@dataclass(frozen=True)
class Command:
    """Where in `fionalm.commands` a command's function lives, and what it does."""

    target: str
    summary: str


COMMANDS: dict[str, dict[str, Command]] = {
    "See it: reproduce papers": {
        "studies": Command("studies:studies", "list the studies, their papers and claims"),
        "reproduce": Command("studies:reproduce", "run a study, or all, and write the report"),
        "report": Command("studies:report", "rebuild and summarise the report of a run folder"),
        "plan": Command("studies:plan", "what a study costs: runs, FLOPs, memory, device-hours"),
    },
    "Use it: your own model and data": {
        "train": Command("train:train", "train a decoder on a corpus, with resume"),
        "coord-check": Command("diagnose:coord_check", "check how activations and updates scale with width"),
        "lr-transfer": Command("diagnose:lr_transfer", "find the best learning rate at each width"),
        "stability": Command("diagnose:stability", "sweep learning rates: sensitivity and divergence"),
        "gamma-search": Command(
            "diagnose:gamma_search",
            "search the per-layer learning-rate constants (extra: search)",
        ),
    },
    "This machine": {
        "doctor": Command("doctor:doctor", "what is installed, what is missing and how to mend it"),
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `fiona` with `arguments` (default: the process's own) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(given)
    except UserError as error:
        print(f"fiona: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        note = str(interrupt) or f"the same command resumes: fiona {' '.join(given)}"
        print(f"\nfiona: stopped; finished work is kept, and {note}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _dispatch(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if given[0] in ("-V", "--version", "version"):
        print(f"fiona {__version__}")
        return
    commands = {name: command for group in COMMANDS.values() for name, command in group.items()}
    name, rest = given[0], given[1:]
    if name not in commands:
        raise choice_error("command", name, commands)
    import tyro

    module, function = commands[name].target.split(":")
    tyro.cli(
        getattr(importlib.import_module(f"fionalm.commands.{module}"), function),
        prog=f"fiona {name}",
        args=rest,
    )


def _help() -> str:
    lines = [
        f"fiona {__version__}: the working life of a language model, from scaling laws to browsers",
        "",
        "usage: fiona COMMAND [OPTIONS]      fiona COMMAND --help explains each option",
    ]
    for group, commands in COMMANDS.items():
        lines += ["", group]
        lines += [f"  {name:<14}{command.summary}" for name, command in commands.items()]
    lines += [
        "",
        "first steps",
        "  fiona doctor",
        "  fiona reproduce training-instabilities --scale smoke",
        "  fiona coord-check decoder --parameterization mup --optimizer adam",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
