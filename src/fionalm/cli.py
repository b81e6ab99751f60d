"""The command `fiona`: finds the command named, parses its options and calls it.

Each command is one function in `fionalm.commands`, imported only when it is asked for, so that `fiona --help`
answers at once. A user's mistake ends with one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from fionalm import __version__
from fionalm.errors import UserError, choice_error, nearest


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
        "coord-check": Command("coord_check:coord_check", "check how activations and updates scale with width"),
        "lr-transfer": Command("lr_transfer:lr_transfer", "find the best learning rate at each width"),
        "stability": Command("stability:stability", "sweep learning rates: sensitivity and divergence"),
        "gamma-search": Command(
            "gamma_search:gamma_search",
            "search the per-layer learning-rate constants (extra: search)",
        ),
    },
    "Fine-tune your own model (each: fiona finetune METHOD --help)": {
        "finetune sft": Command("finetune:sft", "on completions"),
        "finetune reward": Command("finetune:reward", "a scorer, on preference pairs or judged samples"),
        "finetune rest-em": Command("finetune:rest_em", "on own samples that a verifier finds right, repeatedly"),
        "finetune bon-sft": Command("finetune:bon_sft", "on given solutions, for best-of-N"),
        "finetune bon-rl-v": Command("finetune:bon_rl_v", "on what a selecting verifier picks among N samples"),
        "finetune bon-rl-s": Command("finetune:bon_rl_s", "on what the reward picks among N samples"),
        "finetune bon-rlb": Command("finetune:bon_rlb", "to have one right among N samples"),
        "finetune bon-rlb-p": Command("finetune:bon_rlb_p", "to have one right among N samples, by right ones alone"),
        "finetune reinforce": Command("finetune:reinforce", "to raise the reward of one sample"),
        "finetune grpo": Command("finetune:grpo", "to raise the reward of one sample, by groups"),
        "finetune dpo": Command("finetune:dpo", "on preference pairs"),
        "finetune cdpo": Command("finetune:cdpo", "on pairs with soft labels, mixed losses"),
        "finetune geometric-dpo": Command("finetune:geometric_dpo", "on pairs with soft labels, scaled margins"),
        "finetune ipo": Command("finetune:ipo", "on preference pairs, by regression"),
        "finetune cipo": Command("finetune:cipo", "on soft labels, by regression, scaled targets"),
        "finetune geometric-ipo": Command("finetune:geometric_ipo", "on soft labels, by regression, scaled margins"),
        "finetune ropo": Command("finetune:ropo", "on pairs with wrong labels among them"),
        "finetune geometric-ropo": Command("finetune:geometric_ropo", "the same on soft labels, scaled margins"),
    },
    "Sample": {
        "sample": Command("sample:sample", "draw completions of prompts or a dataset, from a model or an endpoint"),
        "serve": Command("serve:serve", "serve a model to OpenAI clients on this machine (extra: serve)"),
    },
    "Evaluate": {
        "evaluate": Command("evaluate:evaluate", "pass@k, best-of-k, majority@k and co-scaling of a samples file"),
        "evaluate win-rate": Command("win_rate:win_rate", "win rates against reference answers, by a judge model"),
        "label-preferences": Command(
            "label_preferences:label_preferences", "soft labels for pairs, by a judge model, rewards or votes"
        ),
    },
    "Hallucinations": {
        "detect train": Command("detect:train", "detectors of a model's made-up answers, beside label-free baselines"),
        "detect score": Command("detect:score", "each answer's probability of being made up"),
    },
    "Know: models of a knowledge graph, and what they make up": {
        "kg describe": Command("knowledge:describe", "count a graph, or ask it for a pair's objects"),
        "kg split": Command("knowledge:split", "what of a graph training shows: all, some or none of a pair's objects"),
        "kg train": Command("knowledge_train:train", "a model on a graph's triples, or a sweep of sizes and epochs"),
        "kg hallucinate": Command("knowledge_hallucinate:hallucinate", "draw objects from a model, and judge them"),
        "kg fit": Command("knowledge_fit:fit", "which size and how many epochs for at most x% hallucination"),
    },
    "Attack and harden": {
        "attack arithmetic": Command("attack:arithmetic", "texts that make a model miscalculate, beside harmless ones"),
        "attack constitution": Command("constitution:constitution", "what reviewing its own answers recovers"),
        "attack gcg": Command("gcg:gcg", "a string optimized by gradient on a local model"),
        "harden": Command("harden:harden", "train a model to stay right under attack, rewarded by arithmetic"),
    },
    "Browser agents": {
        "web serve": Command("web_serve:web_serve", "an environment's pages for a person's browser"),
    },
    "This machine": {
        "doctor": Command("doctor:doctor", "what is installed, what is missing and how to mend it"),
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `fiona` with `arguments` (default: the process's own) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as a sentence: where in the source it was raised tells a user nothing."""
    print(f"fiona: {message}", file=sys.stderr)


def _dispatch(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if given[0] in ("-V", "--version", "version"):
        print(f"fiona {__version__}")
        return
    commands = {name: command for group in COMMANDS.values() for name, command in group.items()}
    name, rest = given[0], given[1:]
    methods = [known.split()[1] for known in commands if known.startswith(f"{name} ")]
    if methods and rest and rest[0] in methods:
        name, rest = f"{name} {rest[0]}", rest[1:]
    elif methods and name not in commands:
        if not rest or rest[0] in ("-h", "--help"):
            print(_group_help(name, commands))
            return
        raise choice_error(f"{name} method", rest[0], methods)
    if name not in commands:
        raise choice_error("command", name, dict.fromkeys(known.split()[0] for known in commands))
    module, function = commands[name].target.split(":")
    command = getattr(importlib.import_module(f"fionalm.commands.{module}"), function)
    keywords = _parse(command, f"fiona {name}", rest)
    command(**keywords)


def _parse(command: Callable[..., None], name: str, rest: list[str]) -> dict[str, Any]:
    """Return the command's arguments; what tyro says of a mistake is cut down to its first sentence."""
    import tyro

    from fionalm.commands.options import ConfigFile, with_config_file

    defaults, words = with_config_file(command, rest)
    signature = inspect.signature(command)
    parameters = [one.replace(default=defaults.get(one.name, one.default)) for one in signature.parameters.values()]

    def keep(**keywords: Any) -> dict[str, Any]:
        return keywords

    hints = get_type_hints(command, include_extras=True)
    if "config" in hints:
        option = inspect.Parameter("config_file", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters.append(option)
        hints["config_file"] = ConfigFile
    # What tyro reads of a function: parsing ends before the command begins, so that its errors stay its own.
    keep.__doc__ = command.__doc__
    keep.__annotations__ = hints
    vars(keep)["__signature__"] = signature.replace(parameters=parameters)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            style = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed, tyro.conf.FlagCreatePairsOff)
            keywords = tyro.cli(keep, prog=name, args=words, config=style)
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise UserError(f"{_first_sentence(said.getvalue())}; see {name} --help") from None
    keywords.pop("config_file", None)
    return keywords


def _first_sentence(box: str) -> str:
    """Return what a box of tyro's says first, and the option that it suggests.

    Its parts are parted by rules; where the encoding has no box characters, its title is the first part.
    """
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = re.split(r"\n(?:─|-){3,}\n", "\n".join(lines))
    said, *rest = parts if "╭" in box else parts[1:] or parts
    sentence = " ".join(said.split()).removesuffix(".")
    if "nrecognized" not in sentence:
        return sentence
    given = next(iter(re.findall(r"--[\w.-]+", sentence)), "")
    return sentence + nearest(given, re.findall(r"^ *(--[\w.-]+)", "\n".join(rest), re.MULTILINE))


def _group_help(group: str, commands: dict[str, Command]) -> str:
    """Return the list of a command's methods, as `fiona finetune` has."""
    methods = {name.split()[1]: one.summary for name, one in commands.items() if name.startswith(f"{group} ")}
    width = max(map(len, methods)) + 2
    lines = [f"usage: fiona {group} METHOD [OPTIONS]      fiona {group} METHOD --help explains each option", ""]
    return "\n".join([*lines, *(f"  {name:<{width}}{summary}" for name, summary in methods.items())])


def _help() -> str:
    lines = [
        f"fiona {__version__}: the working life of a language model, from scaling laws to browsers",
        "",
        "usage: fiona COMMAND [OPTIONS]      fiona COMMAND --help explains each option",
    ]
    for group, commands in COMMANDS.items():
        lines += ["", group]
        width = max(14, max(map(len, commands)) + 2)
        lines += [f"  {name:<{width}}{command.summary}" for name, command in commands.items()]
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
