"""Verifiers of your own: any function that scores completions, in TRL's form."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fionalm.data.text_tokenizer import Message, Prompt, completion_text
from fionalm.errors import UserError, nearest
from fionalm.verifiers.identity import describe
from fionalm.verifiers.types import Verdict, Verifier

Function = Callable[..., Sequence[Any]]


class FunctionVerifier:
    """Judges with a function `f(prompts, completions, **columns)`, which returns a list.

    Its items are rewards (numbers, booleans, None for "could not tell") or `Verdict`s. The function gets only the
    columns that it names, or all if it takes `**kwargs`. Where it raises on a batch it is called again on each
    completion alone: those that it raises on are `error`, the others keep their verdicts. It runs in this process
    and without a deadline: run what a model wrote through `run_program`, never here.

    Args:
        function: the function.
        threshold: rewards of at least this much are `right`.
    """

    def __init__(self, function: Function, *, threshold: float = 1.0) -> None:
        self.function, self.threshold = function, threshold
        self.name = getattr(function, "__name__", type(function).__name__)
        parameters = inspect.signature(function).parameters.values()
        self._accepted = (
            None
            if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
            else {item.name for item in parameters}
        )

    def __enter__(self) -> FunctionVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion.

        Raises:
            UserError: the function returns no list of one reward a completion.
        """
        if not completions:
            return []
        named = {"prompts": prompts, "completions": completions, **columns}
        given = {
            name: list(values) for name, values in named.items() if self._accepted is None or name in self._accepted
        }
        try:
            values = self.function(**given)
        except Exception as error:
            if len(completions) == 1:
                return [Verdict("error", None, detail=f"{self.name} raised {type(error).__name__}: {error}"[:300])]
            singles = range(len(completions))
            one = ({name: values[index : index + 1] for name, values in columns.items()} for index in singles)
            return [
                self(prompts[index : index + 1], completions[index : index + 1], **rows)[0]
                for index, rows in zip(singles, one, strict=True)
            ]
        if isinstance(values, str | Mapping) or not hasattr(values, "__len__") or len(values) != len(completions):
            found = f"{len(values)} values" if hasattr(values, "__len__") else repr(values)[:100]
            raise UserError(
                f"the verifier {self.name} returned {found} for {len(completions)} completions: expected a list of "
                "rewards, one a completion"
            )
        return [self._verdict(value, completion) for value, completion in zip(values, completions, strict=True)]

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def describe(self) -> dict[str, Any]:
        """Return what this verifier is: the function's name and source, not what it calls."""
        return {"name": self.name, "threshold": self.threshold, "function": describe(self.function)}

    def _verdict(self, value: Any, completion: str | Sequence[Message]) -> Verdict:
        if isinstance(value, Verdict):
            return value
        if value is None:
            return Verdict("error", None, detail=f"{self.name} gave no reward")
        try:
            reward = float(value)
        except (TypeError, ValueError):
            return Verdict("error", None, detail=f"{self.name} gave {value!r}, which is no reward"[:300])
        if math.isnan(reward):
            return Verdict("error", None, detail=f"{self.name} gave NaN")
        answer = " ".join(completion_text(completion).split())
        return Verdict("right" if reward >= self.threshold else "wrong", reward, answer)


def load_function(spec: str) -> Function:
    """Return the function that `path.py:name` names.

    Raises:
        UserError: no such file or function (the closest is named), or the file raises when it is imported.
    """
    path_text, colon, name = spec.rpartition(":")
    path = Path(path_text)
    if not colon or not name.isidentifier() or path.suffix != ".py":
        raise UserError(f"{spec!r} names no function: expected path/to/file.py:function")
    if not path.is_file():
        siblings = [str(item) for item in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"no file {path_text}, where the verifier {name} should be{nearest(path_text, siblings)}")
    module_name = f"fionalm_verifier_{path.stem}_{hashlib.sha1(str(path.resolve()).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(f"{path_text} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"{path_text} has no function {name!r}: it has {', '.join(names) or 'none'}{nearest(name, names)}"
        )
    return cast(Function, function)


def reward_function(verifier: Verifier) -> Callable[..., list[float | None]]:
    """Return a verifier as a reward function of TRL's form, for its trainers.

    Where the verifier failed the reward is None, which TRL leaves out of its averages.
    """

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        # TRL also hands over its trainer's state and other things that are no columns.
        rows = {
            name: values
            for name, values in columns.items()
            if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(completions)
        }
        return [verdict.reward for verdict in verifier(prompts, completions, **rows)]

    reward.__name__ = type(verifier).__name__
    return reward
