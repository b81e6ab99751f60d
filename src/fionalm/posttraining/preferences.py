"""Preference optimization with soft labels, for any causal language model (Furuta et al. 2024, arXiv 2409.06691).

    Preferences(policy, rows, PreferencesConfig(loss="geometric_dpo"), out="runs/gdpo").run()

Rows have `prompt`, `chosen` and `rejected`, strings or conversations, and `soft_label`, the probability that chosen is
preferred (absent: 1). The reference is the policy at the start: its log-probabilities are computed once, kept in the
run folder, and its weights are not needed after that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.errors import UserError
from fionalm.objectives import preference_loss
from fionalm.posttraining.learner import Learner
from fionalm.posttraining.pairs import (
    SHARING_PAYS_FROM,
    Pair,
    can_share,
    collate_pairs,
    encode_pair,
    pair_buckets,
    pair_logps,
    sharing_gain,
)
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.preference_metrics import preference_means, preference_sums
from fionalm.posttraining.preferences_config import PreferencesConfig
from fionalm.posttraining.reference_logps import reference_logps
from fionalm.posttraining.run import MODEL_FOLDER, Run, fingerprint, open_run
from fionalm.posttraining.sampled_kl import sampled_kl
from fionalm.posttraining.supervised import batch_of
from fionalm.progress import progress
from fionalm.sampling.types import SamplingParams
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World, distributed
from fionalm.training.interrupt import stop_on_signals

Measure = Callable[[Policy], Mapping[str, float]]
"""Numbers of the policy as it is; called in every process, and the main one's count."""


@dataclass
class PreferencesResult:
    """What a preference training came to."""

    steps: int
    """Updates done."""
    loss: float
    """Mean loss of the last tenth of the steps."""
    shared_prompt: bool
    """Whether chosen and rejected shared a forward pass over their prompt."""
    sharing_gain: float
    """How many times fewer tokens that is."""
    validation: dict[str, float]
    """Means over the validation pairs after the last step; empty without any."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Metrics; `step` counts from 0."""


class Preferences:
    """Fine-tune on preference pairs; everything goes to a run folder that can be resumed.

    Args:
        policy: changed in place; as it is when `run` is called, it is the reference.
        rows: `prompt`, `chosen`, `rejected` (strings or conversations) and, if there, `soft_label`.
        config: how.
        validation: rows that are not learnt from, measured as the training rows are.
        measure: measures the policy at each validation; its numbers join the row of metrics.
        out: run folder; None: nothing is written.
        quiet: no progress.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Sequence[Mapping[str, Any]],
        config: PreferencesConfig,
        *,
        validation: Sequence[Mapping[str, Any]] | None = None,
        measure: Measure | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.policy, self.rows, self.config = policy, rows, config
        self.validation, self.measure = validation or (), measure
        self.out, self.quiet = out, quiet

    def run(self) -> PreferencesResult:
        """Train, save the model, and return what came of it.

        Raises:
            UserError: rows that cannot be learnt from (the row is named), or a folder of another run.
            KeyboardInterrupt: stopped; says how to resume.
        """
        if not self.rows:
            raise UserError("there are no pairs to learn from: expected at least one")
        with distributed(self.policy.device) as world:
            settings = {
                "method": self.config.loss,
                "model": self.policy.name,
                "data": fingerprint([*self.rows, None, *self.validation]),
                **to_plain(self.config),
            }
            with open_run(self.out, settings, world) as run:
                if run.result is not None:
                    return PreferencesResult(**{**run.result, "rows": run.rows})
                result = PreferenceTraining(self, run, world).train()
                if run.path is not None:
                    self.policy.save(run.path / MODEL_FOLDER, world=world)
                run.finish({key: value for key, value in asdict(result).items() if key != "rows"})
                return result

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
        """Return rows as token ids.

        Raises:
            UserError: a row that cannot be learnt from.
        """
        context = self.policy.context_length
        return [encode_pair(self.policy.tokenizer, row, number=n, context=context) for n, row in enumerate(rows, 1)]


class PreferenceTraining:
    """One training of `Preferences.run`, which can also be taken step by step.

    Args:
        trainer: policy, rows and configuration.
        run: where metrics and checkpoints go.
        world: the processes.

    Raises:
        UserError: rows that cannot be learnt from, or a model that cannot share prompts and has to.
    """

    def __init__(self, trainer: Preferences, run: Run, world: World) -> None:
        self.policy, self.config, self.run, self.world = trainer.policy, trainer.config, run, world
        self.measure = trainer.measure
        self.quiet = trainer.quiet or not world.is_main
        self.pairs, self.validation = trainer.encode(trainer.rows), trainer.encode(trainer.validation)
        self.batch_size = min(self.config.batch_size, len(self.pairs))
        self.gain = sharing_gain(self.pairs)
        wanted = self.config.shared_prompt == "always" or (
            self.config.shared_prompt == "auto" and self.gain >= SHARING_PAYS_FROM
        )
        self.shared = wanted and can_share(self.policy.model)
        if self.config.shared_prompt == "always" and not self.shared:
            raise UserError(
                f"shared_prompt 'always' was given, but {type(self.policy.model).__name__} cannot place two "
                "completions in one row: expected 'auto' or 'never'"
            )
        total = self.config.total_steps(len(self.pairs))
        everything = [*self.pairs, *self.validation]
        self.reference = reference_logps(
            self.policy,
            everything,
            self.config,
            shared=self.shared,
            world=world,
            folder=run.path,
            average=self.config.average_logps,
            quiet=self.quiet,
        )
        prompts = [pair.prompt_ids for pair in self.validation or self.pairs]
        self.kl_prompts = list(dict.fromkeys(prompts))[: self.config.kl_prompts]
        self.kl_reference = self.policy.reference() if self.kl_prompts else None
        self.learner = Learner(self.policy, self.config, total_steps=total, world=world, folder=run.path)
        self.losses: list[float] = []

    def train(self) -> PreferencesResult:
        """Resume, train to the end and return what came of it; see `Preferences.run`."""
        config, learner, world = self.config, self.learner, self.world
        total = learner.total_steps
        validation: dict[str, float] = {}
        extra = learner.resume()
        if extra is not None:
            self.losses, validation = extra["losses"], extra["validation"]
        self.run.truncate(learner.step_number)
        shares = f"one pass over the prompt for both completions, {self.gain:.2f} times fewer tokens"
        description = f"{config.loss} ({shares})" if self.shared else config.loss
        with (
            stop_on_signals(self.run.path is not None) as stop,
            progress(total - learner.step_number, description, "steps", quiet=self.quiet) as bar,
        ):
            while learner.step_number < total:
                row = self.step()
                done = learner.step_number
                last = done == total
                validates = last or _is_due(done, config.validate_every)
                if validates and self.validation:
                    validation = self._validate()
                    row |= {f"validation/{name}": value for name, value in validation.items()}
                if validates and self.kl_reference is not None:
                    row["kl"] = self._kl()
                if validates and self.measure is not None:
                    found = self.measure(self.policy)
                    row |= world.on_main(lambda found=found: dict(found))
                if last or validates or row["step"] % config.log_every == 0:
                    self.run.append(row)
                self.losses = [*self.losses, row["loss"]][-math.ceil(total / 10) :]
                bar.advance(loss=row["loss"], margin=row["reward_margin"])
                stops = self.run.path is not None and not last and world.any(stop.requested)
                if last or stops or _is_due(done, config.checkpoint_every):
                    learner.save({"losses": self.losses, "validation": validation})
                if stops:
                    raise KeyboardInterrupt(f"{config.loss} is at step {done} of {total}: the same command resumes it")
        loss = math.fsum(self.losses) / len(self.losses)
        return PreferencesResult(learner.step_number, loss, self.shared, self.gain, validation, self.run.rows)

    def step(self) -> dict[str, Any]:
        """Make the next update and return its metrics."""
        step = self.learner.step_number
        chosen = batch_of(step, len(self.pairs), self.batch_size, self.config.seed)
        parts = self._parts(chosen)

        def loss(model: nn.Module, part: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            losses, sums = self._losses(model, part)
            return losses.sum() / len(chosen), sums

        return {"step": step, **preference_means(self.learner.step(parts, loss))}

    def _validate(self) -> dict[str, float]:
        if not self.validation:
            return {}

        def measure(model: nn.Module, part: list[int]) -> dict[str, Tensor]:
            losses, sums = self._losses(model, part)
            return {"loss": losses.sum(), **sums}

        first = len(self.pairs)
        summed = self.learner.evaluate(self._parts(range(first, first + len(self.validation))), measure)
        return {**preference_means(summed), "loss": summed["loss"] / len(self.validation)}

    def _kl(self) -> float:
        assert self.kl_reference is not None
        params = SamplingParams(max_tokens=self.config.max_tokens, seed=self.config.seed)
        return sampled_kl(self.policy, self.kl_reference, self.kl_prompts, params, world=self.world)

    def _losses(self, model: nn.Module, part: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses of pairs [part], numbered with the validation's behind the training's, and sums."""
        config, device = self.config, self.world.device
        batch = collate_pairs(
            [self._pair(index) for index in part], self.policy.tokenizer.pad_id, shared=self.shared, device=device
        )
        logps = pair_logps(model, batch, average=config.average_logps)
        reference = self.reference[:, list(part)].to(device)
        labels = torch.tensor([self._pair(index).soft_label for index in part], device=device)
        losses = preference_loss(
            *logps,
            reference[0],
            reference[1],
            soft_labels=labels,
            kind=config.loss,
            beta=config.chosen_beta,
            ropo_gamma=config.ropo_gamma,
            ropo_eta=config.ropo_eta,
        )
        return losses, preference_sums(logps[0] - reference[0], logps[1] - reference[1], labels, config.chosen_beta)

    def _pair(self, index: int) -> Pair:
        first = len(self.pairs)
        return self.pairs[index] if index < first else self.validation[index - first]

    def _parts(self, indices: Sequence[int]) -> list[list[int]]:
        groups = pair_buckets(
            [self._pair(index) for index in indices],
            self.config.micro_batch_tokens,
            shared=self.shared,
            at_least=self.world.size,
        )
        return [[indices[place] for place in group] for group in groups]


def _is_due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
