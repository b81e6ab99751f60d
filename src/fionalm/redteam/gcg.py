"""Greedy coordinate gradient: an adversarial string that is optimized token by token on a local model.

    policy = load_policy("smollm2")
    tasks = [GcgTask(lambda text: f"What is 2 plus {text} 3?", "7")]
    print(gcg(policy, tasks, GcgConfig(length=12, steps=50), out="runs/gcg").text)

Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models" (arXiv 2307.15043),
algorithms 1 and 2, with two changes: the string never gets worse, and its text is always tokenized as it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fionalm.data import Prompt
from fionalm.errors import UserError
from fionalm.posttraining import Example, Policy, TokenBatch, collate, completion_logps, open_run
from fionalm.posttraining.run import Run, fingerprint
from fionalm.progress import progress
from fionalm.redteam.attacks import Attack
from fionalm.redteam.gcg_config import GcgConfig
from fionalm.redteam.gcg_gradient import substitutions, token_gradient
from fionalm.redteam.gcg_slot import GcgTask, Slot, allowed_tokens, attack_text, place, random_text, survives
from fionalm.redteam.problems import DISTANCES, ArithmeticProblem, Insertion, wrong_answer
from fionalm.sampling import sample_seed
from fionalm.sampling.inference import evaluating
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World
from fionalm.training.interrupt import stop_on_signals

PROPOSALS = 4
"""Substitutions drawn for each candidate that is wanted, since some do not survive being written as text."""


@dataclass
class GcgResult:
    """What a search came to."""

    text: str
    """The string."""
    loss: float
    """Mean over the problems of -log p(target), in nats, of the target with its end."""
    hits: list[bool]
    """Whether the model's likeliest answer to each problem is its target, token by token."""
    steps: int
    queries: int
    """Sequences that the model was given; one with a gradient counts once."""
    flops: float
    """Floating point operations: 2 a parameter (without the embedding's) and token forward, 4 with the gradient."""
    rejected: int
    """Candidates left out because their text is tokenized otherwise."""
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """A row a step, with `loss`, `queries`, `hits` and `text` after it."""

    def attack(self, insertion: Insertion = "after", **provenance: Any) -> Attack:
        """Return the string for the attack library.

        Args:
            insertion: where the tasks put it.
            **provenance: what else should be known of it, such as the model.
        """
        known = {"loss": self.loss, "hits": self.hits, "queries": self.queries, "flops": self.flops}
        return Attack(self.text, "gcg", author="gcg", insertion=insertion, provenance=known | provenance)


def gcg(
    policy: Policy,
    tasks: Sequence[GcgTask],
    config: GcgConfig = GcgConfig(),  # noqa: B008 (frozen)
    *,
    out: str | Path | None = None,
    quiet: bool = False,
) -> GcgResult:
    """Search one string that makes the model give each problem's chosen wrong answer.

    Args:
        policy: the model, which is not changed: the own decoder or any causal model of `transformers`.
        tasks: problems and targets; several make a string that serves them all.
        config: how.
        out: run folder, from which a stopped search goes on; None: nothing is written.
        quiet: no progress.

    Raises:
        UserError: no tasks, a prompt too long for the model, a first string that cannot be placed, or a folder of
            another run.
        KeyboardInterrupt: stopped after a step; says how to resume.
    """
    if not tasks:
        raise UserError("there are no problems to attack: expected at least one")
    world = World(policy.device)
    settings = {
        "method": "gcg",
        "model": policy.name,
        "tasks": fingerprint([[task.prompt("{attack}"), task.target] for task in tasks]),
        **to_plain(config),
    }
    with open_run(out, settings, world) as run:
        if run.result is not None:
            return GcgResult(**{**run.result, "rows": run.rows})
        with evaluating(policy.model), _frozen(policy.model):
            return _Search(policy, tasks, config, run).run(quiet)


def arithmetic_tasks(
    problems: Sequence[ArithmeticProblem],
    *,
    insertion: Insertion = "after",
    completion: str = "{target}",
    distances: Sequence[int] = DISTANCES,
    seed: int = 0,
    render: Callable[[str], Prompt] | None = None,
) -> list[GcgTask]:
    """Return problems as tasks, each with a chosen wrong answer.

    Args:
        problems: to be answered wrongly.
        insertion: where the string goes.
        completion: the wrong answer as the model would write it, with `{target}` in it.
        distances: of the wrong answers from the true ones.
        seed: of the choice, as in `wrong_answer`.
        render: writes a prompt as the model reads it. None: as it is.
    """

    def task(problem: ArithmeticProblem) -> GcgTask:
        def prompt(text: str) -> Prompt:
            asked = problem.prompt(text, insertion)
            return asked if render is None else render(asked)

        return GcgTask(prompt, completion.replace("{target}", str(wrong_answer(problem, seed, distances))))

    return [task(problem) for problem in problems]


class _Search:
    """One search; `ids` are the best string's tokens so far."""

    def __init__(self, policy: Policy, tasks: Sequence[GcgTask], config: GcgConfig, run: Run) -> None:
        self.policy, self.tasks, self.config, self.run_folder = policy, tasks, config, run
        self.tokenizer = policy.tokenizer
        embedding = cast(Any, policy.model).get_input_embeddings()
        self.allowed = allowed_tokens(self.tokenizer, embedding.num_embeddings, ascii_only=config.ascii_only)
        text = config.text or random_text(self.tokenizer, tasks[0], config.length, self.allowed, config.seed)
        self.ids, self.slots = place(self.tokenizer, tasks, text, self.allowed)
        for number, slot in enumerate(self.slots, 1):
            length = len(self._example(slot, self.ids).prompt_ids) + len(slot.target)
            if policy.context_length is not None and length > policy.context_length:
                raise UserError(
                    f"problem {number} has {length} tokens with the string and its target: expected at most the "
                    f"model's context of {policy.context_length}"
                )
        weights = {id(parameter): parameter.numel() for parameter in policy.model.parameters()}
        self.parameters = sum(weights.values()) - embedding.weight.numel()
        self.active = 1 if config.progressive else len(tasks)
        self.queries, self.flops, self.rejected = 0, 0.0, 0
        self.loss = float("nan")
        self.hits = [False] * len(tasks)

    def run(self, quiet: bool) -> GcgResult:
        self._resume()
        rows, steps, saving = self.run_folder.rows, self.config.steps, self.run_folder.path is not None
        with (
            stop_on_signals(saving) as stop,
            progress(steps - len(rows), "gcg", "steps", quiet=quiet) as bar,
        ):
            while len(rows) < steps and not self._done(len(rows)):
                self._step(len(rows))
                bar.advance(loss=self.loss, hits=sum(self.hits))
                if stop.requested and len(rows) < steps:
                    raise KeyboardInterrupt(f"gcg is at step {len(rows)} of {steps}: the same command resumes it")
        losses = self._losses([self.ids], self.slots)
        result = GcgResult(
            text=self._text(),
            loss=float(losses.mean()),
            hits=self._find_hits(self.slots),
            steps=len(rows),
            queries=self.queries,
            flops=self.flops,
            rejected=self.rejected,
        )
        self.run_folder.finish({key: value for key, value in asdict(result).items() if key != "rows"})
        result.rows = rows
        return result

    def _step(self, step: int) -> None:
        """Substitute one token by the best of the candidates, if it is better, and write the step's row."""
        slots = self.slots[: self.active]
        loss, gradient = self._gradient(slots)
        seed = sample_seed(self.config.seed, "substitutions", step)
        proposals = substitutions(
            gradient, self.ids, self.allowed, self.config.top_k, PROPOSALS * self.config.candidates, seed
        )
        candidates: list[tuple[int, ...]] = []
        for proposal in proposals:
            if survives(self.tokenizer, self.tasks[0], self.slots[0], proposal):
                candidates.append(proposal)
            else:
                self.rejected += 1
            if len(candidates) == self.config.candidates:
                break
        self.loss = loss
        losses = self._losses(candidates, slots).mean(0) if candidates else torch.empty(0)
        for index in losses.argsort().tolist():
            if not float(losses[index]) < loss:
                break
            pairs = zip(self.tasks[1:], self.slots[1:], strict=True)
            if all(survives(self.tokenizer, task, slot, candidates[index]) for task, slot in pairs):
                self.ids, self.loss = candidates[index], float(losses[index])
                break
            self.rejected += 1
        self.hits = self._find_hits(slots) + [False] * (len(self.tasks) - self.active)
        if all(self.hits[: self.active]) and self.active < len(self.tasks):
            self.active += 1
        self.run_folder.append(
            {
                "step": step,
                "loss": self.loss,
                "problems": len(slots),
                "active": self.active,
                "hits": sum(self.hits),
                "queries": self.queries,
                "flops": self.flops,
                "rejected": self.rejected,
                "text": self._text(),
                "ids": list(self.ids),
            }
        )

    def _done(self, steps: int) -> bool:
        limit = self.config.max_queries
        if limit is not None and self.queries >= limit:
            return True
        return bool(steps) and self.config.stop_when_found and all(self.hits)

    def _resume(self) -> None:
        if not self.run_folder.rows:
            return
        self.run_folder.truncate(len(self.run_folder.rows))  # what a kill tore off
        row = self.run_folder.rows[-1]
        self.ids, self.loss, self.active = tuple(row["ids"]), row["loss"], row["active"]
        self.queries, self.flops, self.rejected = row["queries"], row["flops"], row["rejected"]
        known = row["hits"] == row["problems"] == len(self.tasks)
        self.hits = [known] * len(self.tasks)

    def _text(self) -> str:
        text = attack_text(self.tokenizer, self.ids, self.slots[0])
        assert text is not None  # the first string was placed, and every later one survives
        return text

    def _gradient(self, slots: Sequence[Slot]) -> tuple[float, Tensor]:
        """Return the mean loss of the string and its mean gradient [places, vocab]."""
        losses, total = [], torch.zeros(())
        for slot in slots:
            places = slice(len(slot.before), len(slot.before) + len(self.ids))
            loss, gradient = token_gradient(self.policy.model, self._batch(slot, [self.ids]), places)
            losses.append(float(loss))
            total = total.to(gradient) + gradient[0]
            self._count(1, slot, gradient=True)
        return sum(losses) / len(slots), total / len(slots)

    @torch.no_grad()
    def _losses(self, candidates: Sequence[tuple[int, ...]], slots: Sequence[Slot]) -> Tensor:
        """Return -log p(target) of each problem for each candidate [problems, candidates], in nats."""
        rows = []
        for slot in slots:
            size = max(1, self.config.batch_tokens // self._example(slot, self.ids).length)
            parts = [candidates[start : start + size] for start in range(0, len(candidates), size)]
            rows.append(
                torch.cat([-completion_logps(self.policy.model, self._batch(slot, part)).cpu() for part in parts])
            )
            self._count(len(candidates), slot)
        return torch.stack(rows)

    @torch.no_grad()
    def _find_hits(self, slots: Sequence[Slot]) -> list[bool]:
        found = []
        for slot in slots:
            batch = self._batch(slot, [self.ids])
            likeliest = self.policy.model(batch.input_ids).logits[0, -len(slot.target) - 1 : -1].argmax(-1)
            found.append(likeliest.tolist() == list(slot.target))
            self._count(1, slot)
        return found

    def _example(self, slot: Slot, ids: Sequence[int]) -> Example:
        return Example((*slot.before, *ids, *slot.after), slot.target)

    def _batch(self, slot: Slot, strings: Sequence[Sequence[int]]) -> TokenBatch:
        examples = [self._example(slot, ids) for ids in strings]
        return collate(examples, self.tokenizer.pad_id, self.policy.device)

    def _count(self, sequences: int, slot: Slot, *, gradient: bool = False) -> None:
        tokens = sequences * self._example(slot, self.ids).length
        self.queries += sequences
        self.flops += (4 if gradient else 2) * self.parameters * tokens


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Ask for no gradient of the weights for a while: only the string's is wanted."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
