"""Supervised fine-tuning on completions: the loop that other methods use too, and the trainer for rows.

    Supervised(policy, rows, SupervisedConfig(epochs=2), out="runs/sft").run()

Only the completions' tokens are learnt. With validation, training stops when it no longer gets better, and the best
weights are the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fionalm.errors import UserError
from fionalm.posttraining.batches import Example, collate, encode_example, length_buckets
from fionalm.posttraining.config import SupervisedConfig
from fionalm.posttraining.forward import completion_logps
from fionalm.posttraining.learner import Learner
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.run import MODEL_FOLDER, SAMPLES_FILE, Run, fingerprint, open_run
from fionalm.progress import progress
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World, distributed
from fionalm.training.interrupt import stop_on_signals

Validate = Callable[[Policy], float]
"""How good the policy is, larger is better; called in every process, and the main one's value counts."""


class MetricsSink(Protocol):
    """Where rows of metrics go, such as a `Run`."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, which has a `step`."""

    def truncate(self, step: int) -> None:
        """Drop the rows of `step` and later: training goes on from there."""


@dataclass
class Fit:
    """What a supervised training came to."""

    steps: int
    """Updates done."""
    loss: float
    """Mean loss of the last tenth of the logged steps: nats a token, or an example."""
    best_step: int | None = None
    """Updates that the best weights, which the policy has now, had; None: no validation."""
    best_value: float | None = None
    """Their validation; larger is better."""
    stopped_early: bool = False
    """Whether validation ended the training."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Metrics."""


def fit(
    policy: Policy,
    examples: Sequence[Example],
    config: SupervisedConfig,
    *,
    weights: Sequence[float] | None = None,
    validation: Sequence[Example] = (),
    validate: Validate | None = None,
    folder: str | Path | None = None,
    log: MetricsSink | None = None,
    world: World | None = None,
    quiet: bool = False,
    description: str = "training",
) -> Fit:
    """Raise the log-probability of the examples' completions; the policy's weights are changed in place.

    Args:
        policy: from the weights that it has.
        examples: what is learnt.
        config: how.
        weights: a factor of each example's loss; None: 1.
        validation: examples whose mean loss a token is measured; it decides what is best unless `validate` does.
        validate: measures the policy; larger is better.
        folder: for checkpoints and the best weights; resumed if it has some. None: nothing is written.
        log: where rows of metrics go.
        world: the processes; None: this one.
        quiet: no progress.
        description: of the progress.

    Raises:
        UserError: no examples, a loss that is not finite, a full disk.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a step and, with a folder, a checkpoint.
    """
    if not examples:
        raise UserError("there are no examples to learn from: expected at least one")
    return _Fitting(
        policy, examples, config, weights, validation, validate, folder, log, world or World(policy.device), quiet
    ).run(description)


class _Fitting:
    def __init__(
        self,
        policy: Policy,
        examples: Sequence[Example],
        config: SupervisedConfig,
        weights: Sequence[float] | None,
        validation: Sequence[Example],
        validate: Validate | None,
        folder: str | Path | None,
        log: MetricsSink | None,
        world: World,
        quiet: bool,
    ) -> None:
        self.policy, self.examples, self.config, self.weights = policy, examples, config, weights
        self.validation, self.validate, self.log, self.world = validation, validate, log, world
        self.quiet = quiet or not world.is_main
        self.best_file = None if folder is None else Path(folder) / "checkpoints" / "best.safetensors"
        self.batch_size = min(config.batch_size, len(examples))
        total = config.total_steps(len(examples))
        self.every = config.validate_every or math.ceil(len(examples) / self.batch_size)
        self.learner = Learner(policy, config, total_steps=total, world=world, folder=folder)
        self.best: dict[str, Tensor] | None = None
        self.fit = Fit(steps=0, loss=math.nan)
        self.waited = 0

    def run(self, description: str) -> Fit:
        learner, total = self.learner, self.learner.total_steps
        self._resume()
        remaining = 0 if self.fit.stopped_early else total - learner.step_number
        saving = self.best_file is not None
        with (
            stop_on_signals(saving) as stop,
            progress(remaining, description, "steps", quiet=self.quiet) as bar,
        ):
            while learner.step_number < total and not self.fit.stopped_early:
                row = self._step()
                last = learner.step_number == total
                if self._validates and (last or learner.step_number % self.every == 0):
                    row |= self._measure()
                    last = last or self.fit.stopped_early
                self._record(row, last)
                bar.advance(loss=row["loss"])
                due = self.config.checkpoint_every and learner.step_number % self.config.checkpoint_every == 0
                stops = saving and not last and self.world.any(stop.requested)
                if last or due or stops:
                    learner.save(self._extra())
                if stops:
                    raise KeyboardInterrupt(
                        f"{description} is at step {learner.step_number} of {total}: the same command resumes it"
                    )
        self._take_best()
        self.fit.steps = learner.step_number
        losses = [row["loss"] for row in self.fit.rows]
        tenth = losses[-math.ceil(len(losses) / 10) :]
        self.fit.loss = math.fsum(tenth) / len(tenth)
        return self.fit

    @property
    def _validates(self) -> bool:
        return self.validate is not None or bool(self.validation)

    def _step(self) -> dict[str, Any]:
        step, examples, weights = self.learner.step_number, self.examples, self.weights
        chosen = batch_of(step, len(examples), self.batch_size, self.config.seed)
        tokens = sum(len(examples[index].completion_ids) for index in chosen)
        count = tokens if self.config.average == "token" else len(chosen)
        parts = self._parts([examples[index].length for index in chosen])

        def loss(model: nn.Module, part: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            indices = [chosen[place] for place in part]
            batch = collate([examples[i] for i in indices], self.policy.tokenizer.pad_id, self.world.device)
            losses = -completion_logps(model, batch)
            if weights is not None:
                losses = losses * torch.tensor([weights[i] for i in indices], device=losses.device)
            return losses.sum() / count, {}

        statistics = self.learner.step(parts, loss)
        return {"step": step, **statistics, "tokens": tokens}

    def _measure(self) -> dict[str, float]:
        """Validate, remember the weights if they are the best, and tell whether to go on."""
        found: dict[str, float] = {}
        if self.validation:
            found["validation_loss"] = self._validation_loss()
        if self.validate is not None:
            value = self.validate(self.policy)
            found["validation"] = self.world.on_main(lambda: float(value))
        value = found.get("validation", -found.get("validation_loss", math.nan))
        if self.fit.best_value is None or value > self.fit.best_value:
            self.fit.best_value, self.fit.best_step, self.waited = value, self.learner.step_number, 0
            self.best = self.policy.snapshot()
            if self.best_file is not None:
                self.world.on_main(self._write_best)
        else:
            self.waited += 1
            self.fit.stopped_early = bool(self.config.patience) and self.waited >= self.config.patience
        return found

    def _validation_loss(self) -> float:
        validation = self.validation

        def loss(model: nn.Module, part: list[int]) -> dict[str, Tensor]:
            batch = collate([validation[i] for i in part], self.policy.tokenizer.pad_id, self.world.device)
            return {"loss": -completion_logps(model, batch).sum()}

        summed = self.learner.evaluate(self._parts([example.length for example in validation]), loss)
        return summed["loss"] / sum(len(example.completion_ids) for example in validation)

    def _parts(self, lengths: Sequence[int]) -> list[list[int]]:
        return length_buckets(lengths, self.config.micro_batch_tokens, at_least=self.world.size)

    def _record(self, row: dict[str, Any], last: bool) -> None:
        if last or row["step"] % self.config.log_every == 0 or "validation" in row or "validation_loss" in row:
            self.fit.rows.append(row)
            if self.log is not None:
                self.log.append(row)

    def _extra(self) -> dict[str, Any]:
        return {**asdict(self.fit), "waited": self.waited}

    def _resume(self) -> None:
        extra = self.learner.resume()
        if extra is not None:
            self.waited = extra.pop("waited")
            self.fit = Fit(**extra)
        if self.log is not None:
            self.log.truncate(self.learner.step_number)

    def _write_best(self) -> None:
        from fionalm.models.weight_files import write_safetensors

        assert self.best_file is not None and self.best is not None
        write_safetensors(self.best_file, self.best)

    def _take_best(self) -> None:
        if self.fit.best_step in (None, self.learner.step_number):
            return
        if self.best is None:  # found before a resumption
            from safetensors.torch import load_file

            assert self.best_file is not None
            self.best = load_file(self.best_file)
        self.policy.restore(self.best)


class Supervised:
    """Fine-tune on rows with `prompt` and `completion`; everything goes to a run folder that can be resumed.

    Args:
        policy: changed in place.
        rows: `prompt` (string or conversation) and `completion` (string or messages).
        config: how.
        validation: rows that are not learnt from; their loss decides which weights are best.
        validate: decides that instead; larger is better.
        out: run folder; None: nothing is written.
        quiet: no progress.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Sequence[Mapping[str, Any]],
        config: SupervisedConfig,
        *,
        validation: Sequence[Mapping[str, Any]] = (),
        validate: Validate | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.policy, self.rows, self.config = policy, rows, config
        self.validation, self.validate = validation, validate
        self.out, self.quiet = out, quiet

    def run(self) -> Fit:
        """Train, save the model and some completions, and return what came of it.

        Raises:
            UserError: rows that cannot be learnt from (the row is named), or a folder of another run.
            KeyboardInterrupt: stopped; says how to resume.
        """
        with distributed(self.policy.device) as world:
            settings = {
                "method": "sft",
                "model": self.policy.name,
                "data": fingerprint([*self.rows, None, *self.validation]),
                **to_plain(self.config),
            }
            with open_run(self.out, settings, world) as run:
                if run.result is not None:
                    return Fit(**{**run.result, "rows": run.rows})
                return self._run(run, world)

    def _run(self, run: Run, world: World) -> Fit:
        found = fit(
            self.policy,
            self._encoded(self.rows),
            self.config,
            validation=self._encoded(self.validation),
            validate=self.validate,
            folder=run.path,
            log=run,
            world=world,
            quiet=self.quiet,
        )
        if run.path is not None:
            self.policy.save(run.path / MODEL_FOLDER, world=world)
            world.on_main(lambda: self._keep_samples(run))
        run.finish({key: value for key, value in asdict(found).items() if key != "rows"})
        return found

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        context = self.policy.context_length
        return [
            encode_example(self.policy.tokenizer, row["prompt"], row["completion"], context=context, row=number)
            for number, row in enumerate(rows, 1)
        ]

    def _keep_samples(self, run: Run) -> None:
        rows = (self.validation or self.rows)[: self.config.samples]
        if not rows or run.path is None or (self.config.strategy == "fsdp2" and run.world.size > 1):
            return
        from fionalm.sampling import SampleRecord, SampleStore, SamplingParams

        params = SamplingParams(max_tokens=self.config.max_tokens, temperature=0.0)
        prompts = [row["prompt"] for row in rows]
        drawn = self.policy.sampler().sample(prompts, params)
        store = SampleStore(run.path / SAMPLES_FILE)
        for number, (prompt, [completion]) in enumerate(zip(prompts, drawn, strict=True)):
            store.append(
                SampleRecord(
                    problem=str(number),
                    sample=0,
                    prompt=prompt,
                    completion=completion.text,
                    temperature=0.0,
                    finish_reason=completion.finish_reason,
                    logp=completion.logp,
                    columns={"completion": rows[number]["completion"]},
                )
            )


def batch_of(step: int, count: int, batch_size: int, seed: int) -> list[int]:
    """Return the indices of a step's batch: epoch after epoch, each in an order of its own."""
    chosen: list[int] = []
    for epoch in range(step * batch_size // count, ((step + 1) * batch_size - 1) // count + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator).tolist()
        first = max(0, step * batch_size - epoch * count)
        chosen += order[first : (step + 1) * batch_size - epoch * count]
    return chosen
