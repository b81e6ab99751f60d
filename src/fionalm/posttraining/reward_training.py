"""Training a `RewardModel`: right and wrong samples by cross-entropy, preferred pairs by Bradley and Terry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.errors import UserError, nearest
from fionalm.posttraining.batches import Example, length_buckets
from fionalm.posttraining.early_stopping import BestWeights
from fionalm.posttraining.learner import Learner
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.reward_config import RewardConfig
from fionalm.posttraining.reward_model import RewardModel, ScalarHead, stacked
from fionalm.posttraining.run import MODEL_FOLDER, Run, fingerprint, open_run
from fionalm.posttraining.supervised import batch_of
from fionalm.progress import progress
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World, distributed
from fionalm.training.interrupt import stop_on_signals

Row = Mapping[str, Any]


@dataclass
class RewardResult:
    """What a training came to."""

    steps: int
    """Updates done."""
    loss: float
    """Mean of the last tenth of the steps, in nats a row."""
    best_step: int | None = None
    """Updates that the model has had: those of the best validation; None: all."""
    validation_loss: float | None = None
    """In nats a row; None: there was no validation."""
    validation_accuracy: float | None = None
    """Share of labels that the score's sign has, or of pairs in the right order."""
    validation_ranking: float | None = None
    """Chance that a right sample scores above a wrong one (the area under the ROC curve); None without both kinds."""
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Metrics."""


class _Item(NamedTuple):
    """A row: one completion and its label, or two of which the first is preferred; and how much it counts."""

    examples: tuple[Example, ...]
    label: float
    weight: float


class RewardTrainer:
    """Trains a scalar head and the language model below it, in a run folder that can be resumed.

    Args:
        policy: the language model; changed in place, and of no other use afterwards.
        rows: `prompt`, `completion` and `label` (or `reward`) from 0 to 1, of which rows with None are left out; or
            `prompt`, `chosen` and `rejected`. A `weight` says how many rows one stands for.
        config: how.
        validation: rows that are not learnt from.
        out: run folder; None: nothing is written.
        quiet: no progress.

    Attributes:
        model: the reward model, trained once `run` has ended.
        skipped: rows without a label.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Sequence[Row],
        config: RewardConfig,
        *,
        validation: Sequence[Row] | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.policy, self.config, self.out, self.quiet = policy, config, out, quiet
        self.rows, self.validation = list(rows), list(validation or ())
        if not self.rows:
            raise UserError("there are no rows to learn from: expected at least one")
        if config.lora is not None:
            policy.add_lora(config.lora, seed=config.seed)
        module = ScalarHead(policy.model, seed=config.seed).to(policy.device)
        # The head of words is not computed: what several processes wait for must have gradients.
        words, table = policy.model.get_output_embeddings(), policy.model.get_input_embeddings()  # pyright: ignore
        if words is not None and words.weight is not table.weight:
            words.requires_grad_(False)
        self.model = RewardModel(module, policy.tokenizer, reads=config.reads)
        self.pairs = "chosen" in self.rows[0]
        self.items = self._encoded(self.rows)
        self.skipped = len(self.rows) - len(self.items)
        self.held_out = self._encoded(self.validation)
        if not self.items:
            raise UserError(f"none of the {len(self.rows)} rows has a label: expected numbers from 0 to 1")

    def run(self) -> RewardResult:
        """Train, save the model, and return what came of it.

        Raises:
            UserError: a folder of another run, a loss that is not finite, a full disk.
            KeyboardInterrupt: stopped after a step; says how to resume.
        """
        with distributed(self.policy.device) as world:
            settings = {
                "method": "reward",
                "model": self.policy.name,
                "data": fingerprint([*self.rows, None, *self.validation]),
                **to_plain(self.config),
            }
            with open_run(self.out, settings, world) as run:
                if run.result is not None:
                    assert run.path is not None
                    self.model = RewardModel.load(run.path, device=self.policy.device)
                    return RewardResult(**{**run.result, "rows": run.rows})
                return self._run(run, world)

    def _run(self, run: Run, world: World) -> RewardResult:
        config, items = self.config, self.items
        batch = min(config.batch_size, len(items))
        total = config.steps or max(1, math.ceil(config.epochs * len(items) / batch))
        inside = Policy(self.model.module, self.policy.tokenizer, device=self.policy.device)
        inside.lora = self.policy.lora
        learner = Learner(inside, config, total_steps=total, world=world, folder=run.path)
        best = BestWeights(inside, config.patience, folder=run.path, world=world)
        every = config.validate_every or (math.ceil(len(items) / batch) if config.patience else 0)
        every = every if self.held_out else 0
        resumed = learner.resume()
        if resumed:
            best.resume(resumed)
        run.truncate(learner.step_number)
        losses = [row["loss"] for row in run.rows]
        saving = run.path is not None
        quiet = self.quiet or not world.is_main
        with (
            stop_on_signals(saving) as stop,
            progress(total - learner.step_number, "reward model", "steps", quiet=quiet or best.stopped) as bar,
        ):
            while learner.step_number < total and not best.stopped:
                step = learner.step_number
                chosen = [items[index] for index in batch_of(step, len(items), batch, config.seed)]
                found = learner.step(self._parts(chosen, world), self._loss(chosen))
                losses.append(found["loss"])
                last = step + 1 == total
                measured = every and (last or (step + 1) % every == 0)
                if measured:
                    validated = self._validated(learner)
                    last = best.offer(-validated["validation_loss"], step + 1) or last
                    found |= validated
                if last or measured or step % config.log_every == 0:
                    run.append({"step": step, **found})
                bar.advance(loss=found["loss"], accuracy=found["accuracy"])
                due = config.checkpoint_every and (step + 1) % config.checkpoint_every == 0
                stops = saving and not last and world.any(stop.requested)
                if last or due or stops:
                    learner.save(best.state() if every else None)
                if stops:
                    raise KeyboardInterrupt(
                        f"the reward model is at step {step + 1} of {total}: the same command resumes it"
                    )
        tail = losses[-math.ceil(len(losses) / 10) :]
        best.take(learner.step_number)
        result = RewardResult(learner.step_number, math.fsum(tail) / len(tail), best.step)
        self._validate(learner, world, result)
        if run.path is not None:
            self.model.save(run.path / MODEL_FOLDER, policy=self.policy, world=world)
        run.finish({key: value for key, value in asdict(result).items() if key != "rows"})
        result.rows = run.rows
        return result

    def _parts(self, items: Sequence[_Item], world: World) -> list[list[int]]:
        lengths = [len(item.examples) * max(example.length for example in item.examples) for item in items]
        return length_buckets(lengths, self.config.micro_batch_tokens, at_least=world.size)

    def _loss(self, items: Sequence[_Item]) -> Any:
        device, pad = self.policy.device, self.policy.tokenizer.pad_id
        whole = math.fsum(item.weight for item in items)

        def loss(model: nn.Module, part: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            scores = model(*stacked([example for index in part for example in items[index].examples], pad, device))
            labels = torch.tensor([items[index].label for index in part], device=device)
            weights = torch.tensor([items[index].weight for index in part], device=device) / whole
            logits = scores.view(-1, 2)[:, 0] - scores.view(-1, 2)[:, 1] if self.pairs else scores
            total = F.binary_cross_entropy_with_logits(logits.float(), labels, weights, reduction="sum")
            return total, {"accuracy": weights @ ((logits > 0) == (labels > 0.5)).to(weights)}

        return loss

    def _validate(self, learner: Learner, world: World, result: RewardResult) -> None:
        if not self.held_out:
            return
        found = self._validated(learner)
        result.validation_loss, result.validation_accuracy = found["validation_loss"], found["validation_accuracy"]
        if not self.pairs and not (self.config.strategy == "fsdp2" and world.size > 1):
            kept = [row for row in self.validation if _label(row, 0) is not None]
            scores = self.model.score([row["prompt"] for row in kept], [row["completion"] for row in kept])
            result.validation_ranking = ranking(scores, [item.label > 0.5 for item in self.held_out])

    def _validated(self, learner: Learner) -> dict[str, float]:
        loss = self._loss(self.held_out)

        def evaluate(model: nn.Module, part: list[int]) -> dict[str, Tensor]:
            total, statistics = loss(model, part)
            return {"validation_loss": total, **{f"validation_{name}": one for name, one in statistics.items()}}

        return learner.evaluate(self._parts(self.held_out, learner.world), evaluate)

    def _encoded(self, rows: Sequence[Row]) -> list[_Item]:
        need = ("prompt", "chosen", "rejected") if self.pairs else ("prompt", "completion")
        found = []
        for number, row in enumerate(rows, 1):
            for name in need:
                if name not in row:
                    raise UserError(
                        f"row {number} has no column {name!r}: expected {', '.join(need)}, and it has "
                        f"{', '.join(row)}{nearest(name, row)}"
                    )
            label = 1.0 if self.pairs else _label(row, number)
            if label is not None:
                texts = [row["chosen"], row["rejected"]] if self.pairs else [row["completion"]]
                examples = tuple(self.model.encode([row["prompt"]] * len(texts), texts))
                found.append(_Item(examples, label, float(row.get("weight", 1.0))))
        return found


def ranking(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the chance that a right one scores above a wrong one, ties half; None if there are not both kinds."""
    values, marks = torch.tensor(scores, dtype=torch.float64), torch.tensor(right)
    above, below = values[marks], values[~marks]
    if not len(above) or not len(below):
        return None
    ordered = below.sort().values
    lower = torch.searchsorted(ordered, above, right=False).double()
    upto = torch.searchsorted(ordered, above, right=True).double()
    return float(((lower + upto) / 2).mean() / len(below))


def _label(row: Row, number: int) -> float | None:
    name = "label" if "label" in row else "reward"
    if name not in row:
        raise UserError(
            f"row {number} has no column 'label' or 'reward', nor 'chosen' and 'rejected': it has {', '.join(row)}"
            f"{nearest('label', row)}"
        )
    if row[name] is None:
        return None
    try:
        label = float(row[name])
    except (TypeError, ValueError):
        label = math.nan
    if not 0 <= label <= 1:
        raise UserError(f"row {number}: {name} was {row[name]!r}: expected a number from 0 to 1, or true or false")
    return label
