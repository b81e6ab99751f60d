"""The worker process of `MathVerifier`: parses and compares answers with math-verify.

    python -m fionalm.verifiers.math_worker MEMORY_MB SECONDS

math-verify's own timeouts, which use `signal.alarm`, are off: the pool kills a worker that overruns its deadline.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import socket
import sys
from fractions import Fraction
from functools import lru_cache
from typing import Any

from fionalm.verifiers.answers import after_hashes, boxed, number_text
from fionalm.verifiers.pool import HEADER

PROSE = re.compile(r"(?<![A-Za-z'])[A-Za-z']{2,}[,.:;]?\s+[A-Za-z']{2,}")
"""Two words in a row: a sentence, not an expression."""
MATHS = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+")
TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
DECIMAL = re.compile(r"-?(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,5})?")
NUMBER = re.compile(r"(-?)(?:(\d{1,15}(?:\.\d{1,5})?)|\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}|(\d{1,9})/(\d{1,9}))")
POINT = re.compile(r"(?:\\left)?\s*\(([^()]+,[^()]+?)(?:\\right)?\s*\)")
DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[")


def judge(job: dict[str, Any]) -> dict[str, Any]:
    """Compare a prediction with a gold answer; the outcome is a verdict's, or `no_gold`."""
    gold_text, text = answer_text(job["gold"]), None if job["prediction"] is None else answer_text(job["prediction"])
    plain_gold, plain = _plain(gold_text), _plain(text or "")
    if plain_gold is not None and text is None:
        return {"outcome": "right", "answer": canonical(gold_text)}
    if plain_gold is not None and plain is not None and (same := _same_plain(plain_gold, plain)) is not None:
        # What sympy would say, some hundred times faster.
        return {"outcome": "right" if same else "wrong", "answer": canonical(gold_text if same else text)}
    gold = parse(job["gold"])
    if not gold:
        return {"outcome": "no_gold"}
    if text is None or _words(text) == _words(gold_text):
        return {"outcome": "right", "answer": canonical(job["gold"])}
    found = parse(job["prediction"])
    if not found:
        return {"outcome": "no_answer"}
    if _equal(gold, found):
        # Equal answers share the gold's form, whatever they look like, so that votes for them add up.
        return {"outcome": "right", "answer": canonical(job["gold"])}
    return {"outcome": "wrong", "answer": canonical(job["prediction"])}


def answer_text(text: str) -> str:
    r"""Return the answer's part of a text: after `####`, in the last `\boxed{}`, or the text itself."""
    return after_hashes(text) or boxed(text) or text.replace("####", " ").strip()


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[Any, ...]:
    r"""Return what math-verify reads in a text: a sympy object and its source, or nothing.

    Bare LaTeX and expressions are read whole, as if boxed; prose is searched for an answer.
    """
    import math_verify

    answer = answer_text(text)
    if not answer:
        return ()
    bare = after_hashes(text) is not None or boxed(text) is not None
    bare = bare or not (DELIMITED.search(answer) or "\n" in answer or PROSE.search(MATHS.sub(" ", answer)))
    source = f"\\boxed{{{answer}}}" if bare else answer
    configs = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]
    return tuple(math_verify.parse(source, configs, parsing_timeout=None))  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Return a form of the answer that most equal answers share: `1/2` for 0.5 and for a fraction in LaTeX."""
    plain = _plain(answer_text(text))
    if plain is not None:
        return number_text(plain[0]) if len(plain) == 1 else f"({', '.join(map(number_text, plain))})"
    parsed = parse(text)
    try:
        return _form(parsed[0])
    except Exception:  # whatever sympy makes of a model's text: the source itself is a form too
        return _words(str(parsed[-1]))


def _equal(gold: tuple[Any, ...], found: tuple[Any, ...]) -> bool:
    import math_verify

    if _clearly_unequal(gold[0], found[0]):
        return False
    try:
        return math_verify.verify(list(gold), list(found), timeout_seconds=None, raise_on_error=True)
    except ValueError as error:
        if "nan or zoo" in str(error):  # a prediction such as 1/0: no number, and so not the gold answer
            return False
        raise


def _form(value: Any) -> str:
    import sympy

    if isinstance(value, str):
        return _words(value)
    if isinstance(value, sympy.Eq) and isinstance(value.lhs, sympy.Symbol):
        return _form(value.rhs)
    if isinstance(value, sympy.FiniteSet):
        forms = sorted(_form(item) for item in value.args)
        return forms[0] if len(forms) == 1 else "{" + ", ".join(forms) + "}"
    if isinstance(value, sympy.Interval) and value.left_open and value.right_open:  # or a point: they look alike
        return f"({_form(value.start)}, {_form(value.end)})"
    if isinstance(value, sympy.Tuple):
        return "(" + ", ".join(_form(item) for item in value) + ")"
    value = value.doit()
    value = value.replace(lambda part: isinstance(part, sympy.Float), lambda part: sympy.Rational(str(part)))
    if not isinstance(value, sympy.Expr):
        return str(value)
    if value.is_Rational:
        return str(value)
    return str(sympy.N(value, 10) if value.is_number else sympy.expand(value))


def _clearly_unequal(gold: Any, found: Any) -> bool:
    """Tell whether two expressions differ plainly at a point, which simplifying finds out slowly.

    Left to math-verify: percentages, which equal numbers in two ways; words, which it reads as products of letters;
    and everything that is no expression.
    """
    import sympy

    for value in (gold, found):
        if not isinstance(value, sympy.Expr) or isinstance(value, sympy.Symbol) or value.has(sympy.UnevaluatedExpr):
            return False
    symbols = sorted(gold.free_symbols | found.free_symbols, key=str)
    point = {symbol: sympy.Rational(7 * index + 9, 11) for index, symbol in enumerate(symbols)}
    try:
        one, other = (complex(value.subs(point).evalf(15)) for value in (gold, found))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return False
    return abs(one - other) > 1e-4 * (1 + abs(one))  # False for NaN


def _plain(text: str) -> tuple[Fraction, ...] | None:
    """Return the numbers of a plain answer: a decimal, a fraction, or several in round brackets; None for others."""
    if DECIMAL.fullmatch(text):
        return (Fraction(text.replace(",", "")),)
    inner = POINT.fullmatch(text)
    items = [NUMBER.fullmatch(part.strip()) for part in (inner[1].split(",") if inner else [text])]
    values = []
    for item in items:
        if item is None or len(text) > 200:
            return None
        sign, decimal, top, bottom, left, right = item.groups()
        bottom = int(bottom or right or 1)
        if bottom == 0:
            return None
        values.append((-1 if sign else 1) * Fraction(decimal or top or left) / bottom)
    return tuple(values)


def _same_plain(gold: tuple[Fraction, ...], found: tuple[Fraction, ...]) -> bool | None:
    """Compare plain answers; None where they are so near that math-verify's rounding decides."""
    if gold == found:
        return True
    near = len(gold) == len(found) and all(abs(one - other) < 2e-6 for one, other in zip(gold, found, strict=True))
    return None if near else False


def _words(text: str) -> str:
    text = TEXT.sub(r"\1", text).replace("\\!", "").replace("\\,", "").replace("\\ ", " ").strip(" .$")
    return " ".join(text.split())


def serve(channel: socket.socket, cpu_seconds: float) -> None:
    """Answer jobs until the other end closes."""
    stream = channel.makefile("rwb")

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        stream.write(HEADER.pack(len(data)) + data)
        stream.flush()

    try:
        import math_verify  # noqa: F401
    except ModuleNotFoundError:
        send({"refused": "math answers need the package 'math_verify', which is not installed: "
                         "pip install 'fiona-lm[evaluation]'"})  # fmt: skip
        return
    logging.disable(logging.CRITICAL)
    judge({"gold": "\\frac{1}{2}", "prediction": "It is $0.5$, so 1/2."})  # sympy's lazy parts, before any deadline
    send({"ready": True})
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        job = json.loads(stream.read(HEADER.unpack(header)[0]))
        # Should the pool's process be gone, the kernel ends a comparison that would run for ever.
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + cpu_seconds) + 2, resource.RLIM_INFINITY))
        try:
            reply = judge(job)
        except (Exception, MemoryError, RecursionError) as error:
            reply = {"outcome": "error", "detail": f"{type(error).__name__}: {error}"[:300]}
        send(reply)


def main() -> None:
    """Limit this process's memory and serve the socket that is its standard input."""
    memory = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(socket.socket(fileno=sys.stdin.fileno()), float(sys.argv[2]))


if __name__ == "__main__":
    main()
