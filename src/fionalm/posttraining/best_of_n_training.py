"""One run of best-of-N-aware training in one process: draw, judge, weigh, update, measure, save."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fionalm.objectives import clipped_loss, kl_estimate
from fionalm.posttraining.batches import Example, collate, length_buckets
from fionalm.posttraining.best_of_n_metrics import group_metrics, peak_memory_mb, weight_metrics
from fionalm.posttraining.best_of_n_weights import SampleWeights, sample_weights
from fionalm.posttraining.forward import completion_logps
from fionalm.posttraining.learner import Learner
from fionalm.posttraining.policy import Reference
from fionalm.posttraining.rollouts import (
    Group,
    Rollouts,
    Seconds,
    gather,
    judge,
    records,
    reward_table,
    score_table,
    unique,
)
from fionalm.posttraining.run import MODEL_FOLDER, SAMPLES_FILE, Run
from fionalm.posttraining.supervised import batch_of
from fionalm.progress import progress
from fionalm.sampling import SampleStore, SamplingParams, sample_seed
from fionalm.training.distributed import World
from fionalm.training.interrupt import stop_on_signals
from fionalm.verifiers import check_judged

if TYPE_CHECKING:
    from fionalm.posttraining.best_of_n import BestOfN

SAMPLES_FOLDER = "samples"
"""Of training, a file a step; `samples.jsonl` has the trained policy's of the validation problems, or where there are
none the last step's."""
VALIDATION_SEED = 1 << 40
"""Added to the seed of validation samples, which so are the same at each evaluation and never training's."""


@dataclass
class BestOfNResult:
    """What a run came to."""

    steps: int = 0
    """Batches of prompts done."""
    updates: int = 0
    """Optimizer steps: `reuse` a batch."""
    samples: int = 0
    """Samples drawn in training."""
    reused: int = 0
    """How many of them were learnt from again, counted each time."""
    failed_verifications: int = 0
    """Training samples without a reward because the verifier failed; they were left out."""
    unjudged_experts: int = 0
    """Given completions that the verifier failed on, counted again when the run is resumed."""
    clipped_weights: int = 0
    """Weights that were clipped."""
    seconds: dict[str, float] = field(default_factory=dict)
    """In sampling, scoring (beside it), waiting for the verifier, training and evaluation, in the main process."""
    before: dict[str, float] = field(default_factory=dict)
    """Validation before the first step."""
    after: dict[str, float] = field(default_factory=dict)
    """Validation after the last."""
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Metrics."""


class Item(NamedTuple):
    """One completion that is learnt from."""

    example: Example
    weight: float
    """Factor of its log-probability in the objective."""
    share: float
    """Factor of its KL; 0 for an expert's completion, which the policy did not draw."""
    old_logp: float
    reference_logp: float


class Training:
    """One run of a trainer in one process."""

    def __init__(self, trainer: BestOfN, run: Run, world: World) -> None:
        self.trainer, self.run_folder, self.world = trainer, run, world
        self.policy, self.config = trainer.policy, trainer.config
        config = self.config
        if config.lora is not None:
            self.policy.add_lora(config.lora, seed=config.seed)
        self.rollouts = Rollouts(
            self.policy.sampler(max_batch=config.sample_batch),
            self.policy.tokenizer,
            trainer.verifier,
            SamplingParams(n=config.samples, max_tokens=config.max_tokens, temperature=config.temperature),
            trainer.selector,
        )
        regularised = config.kl_coef > 0 or bool(config.kl_final)
        self.reference: Reference | None = self.policy.reference() if regularised and trainer.draws else None
        self.expert_scores: dict[int, float] = {}
        self.learner = Learner(
            self.policy, config, total_steps=config.steps * config.reuse, world=world, folder=run.path
        )
        self.result = BestOfNResult(seconds=dict.fromkeys(("sampling", "scoring", "waiting", "training", "eval"), 0.0))

    def run(self) -> BestOfNResult:
        """Train from the latest checkpoint on, save the model, and return what came of it."""
        config, result, learner = self.config, self.result, self.learner
        extra = learner.resume()
        if extra is not None:
            self.result = result = BestOfNResult(**extra)
        self.run_folder.truncate(result.steps)
        if extra is None:
            result.before = self._evaluate()
        saving = self.run_folder.path is not None
        quiet = self.trainer.quiet or not self.world.is_main
        with (
            stop_on_signals(saving) as stop,
            progress(config.steps - result.steps, config.method, "steps", quiet=quiet) as bar,
        ):
            while result.steps < config.steps:
                row = self._step(result.steps)
                result.steps += 1
                result.updates = learner.step_number
                last = result.steps == config.steps
                if last or (config.eval_every and result.steps % config.eval_every == 0):
                    result.after = self._evaluate()
                    row |= {f"validation/{name}": value for name, value in result.after.items()}
                if last or (result.steps - 1) % config.log_every == 0 or "validation/pass@1" in row:
                    self.run_folder.append(row)
                bar.advance(**{name: row[name] for name in ("reward", "entropy") if name in row})
                due = config.checkpoint_every and result.steps % config.checkpoint_every == 0
                stops = saving and not last and self.world.any(stop.requested)
                if last or due or stops:
                    learner.save({**asdict(result), "rows": []})
                if stops:
                    raise KeyboardInterrupt(
                        f"{config.method} is at step {result.steps} of {config.steps}: the same command resumes it"
                    )
        if self.run_folder.path is not None:
            self.policy.save(self.run_folder.path / MODEL_FOLDER, world=self.world)
        self.run_folder.finish({key: value for key, value in asdict(result).items() if key != "rows"})
        result.rows = self.run_folder.rows
        return result

    def _step(self, step: int) -> dict[str, Any]:
        """Draw, judge, weigh and update; return the step's row of metrics."""
        trainer, config, result = self.trainer, self.config, self.result
        chosen = batch_of(step, len(trainer.rows), trainer.batch_size, config.seed)
        row: dict[str, Any] = {"step": step}
        groups, weights = [], None
        if trainer.draws:
            with self.policy.whole():
                groups = self._draw(step, chosen)
            seconds = self.rollouts.seconds
            for name, value in asdict(seconds).items():
                result.seconds[name] += value
            if step == 0:
                check_judged([verdict for group in groups for verdict in group.verdicts])
            row |= group_metrics(groups, config.n) | _rates(groups, seconds)
            if config.store_samples and self.run_folder.path is not None:
                self.world.on_main(lambda: self._store(step, groups, chosen))
            weights = self._weigh(groups, chosen)
            result.samples += len(chosen) * config.samples
            result.failed_verifications += row["failed_verifications"]
            result.clipped_weights += weights.clipped
            row |= weight_metrics(weights, groups)
        started = time.perf_counter()
        items = self._items(chosen, groups, weights)
        for use in range(config.reuse):
            statistics = self._update(items, use, config.kl_weight(step))
            row |= statistics
            result.reused += len(chosen) * config.samples if use and trainer.draws else 0
        trained = time.perf_counter() - started
        result.seconds["training"] += trained
        if config.reuse > 1:
            row["reused"] = result.reused
        return row | {"seconds_training": trained, "peak_memory_mb": peak_memory_mb(self.world.device)}

    def _draw(self, step: int, chosen: Sequence[int]) -> list[Group]:
        first = step * self.trainer.batch_size
        mine = range(self.world.rank, len(chosen), self.world.size)
        seeds = [
            [sample_seed(self.config.seed, first + place, sample) for sample in range(self.config.samples)]
            for place in mine
        ]
        rows = [self.trainer.rows[chosen[place]] for place in mine]
        names = unique([str(self.trainer.rows[index].get("id", index)) for index in chosen])
        problems = [names[place] for place in mine]
        return gather(self.world, self.rollouts.draw(rows, problems, seeds))

    def _weigh(self, groups: Sequence[Group], chosen: Sequence[int]) -> SampleWeights:
        rewards, scores = reward_table(groups), score_table(groups)
        experts = self._expert_scores(chosen) if self.config.method == "bon-sft" else None
        use_scores = scores if self.config.method in ("bon-rl-v", "bon-sft") else None
        return sample_weights(self.config, rewards, use_scores, experts)

    def _expert_scores(self, chosen: Sequence[int]) -> Tensor:
        """Return the experts' scores; one that the verifier fails on counts as right, which it is given to be."""
        new = [index for index in chosen if index not in self.expert_scores]
        rows = [self.trainer.rows[index] for index in new]
        texts = [self.policy.tokenizer.decode(self.trainer.experts[index].completion_ids) for index in new]
        if self.trainer.selector is not None:
            scores = [float(s) for s in self.trainer.selector([row["prompt"] for row in rows], texts)]
        else:
            verdicts = [judge(self.trainer.verifier, row, [text])[0] for row, text in zip(rows, texts, strict=True)]
            scores = [1.0 if verdict.reward is None else verdict.reward for verdict in verdicts]
            self.result.unjudged_experts += sum(verdict.reward is None for verdict in verdicts)
        self.expert_scores |= dict(zip(new, scores, strict=True))
        return torch.tensor([self.expert_scores[index] for index in chosen])

    def _items(self, chosen: Sequence[int], groups: Sequence[Group], weights: SampleWeights | None) -> list[Item]:
        """Return what is learnt from; samples that weigh nothing and are not regularised cost no forward pass."""
        prompts = len(chosen)
        items = []
        if self.trainer.experts:
            items += [Item(self.trainer.experts[index], 1 / prompts, 0.0, 0.0, 0.0) for index in chosen]
        if weights is None:
            return items
        share = 1 / (prompts * self.config.samples)
        drawn = [
            (Example(group.prompt_ids, completion.token_ids or ()), float(weight) * share, completion.logp or 0.0)
            for group, row in zip(groups, weights.values.tolist(), strict=True)
            for completion, weight in zip(group.completions, row, strict=True)
        ]
        if self.reference is None:
            drawn = [entry for entry in drawn if entry[1]] or drawn[:1]
        examples = [example for example, _, _ in drawn]
        old = [logp for _, _, logp in drawn]
        if self.config.reuse > 1 or self.reference is not None:
            with self.policy.whole():
                if self.config.reuse > 1:  # the sampler's own differ in their last bits, under bf16 in more
                    old = self._logps(examples, None)
                reference = [0.0] * len(drawn) if self.reference is None else self._logps(examples, self.reference)
        else:
            reference = [0.0] * len(drawn)
        items += [
            Item(example, weight, share, before, start)
            for (example, weight, _), before, start in zip(drawn, old, reference, strict=True)
        ]
        return items

    @torch.no_grad()
    def _logps(self, examples: Sequence[Example], reference: Reference | None) -> list[float]:
        """Return completions' log-probabilities under the reference, or the policy; each process computes its share."""
        found = torch.zeros(len(examples), device=self.world.device)
        pad, device, temperature = self.policy.tokenizer.pad_id, self.world.device, self.config.temperature
        parts = length_buckets([example.length for example in examples], self.config.micro_batch_tokens)
        for part in parts[self.world.rank :: self.world.size]:
            batch = collate([examples[index] for index in part], pad, device)
            with self.learner.precision():
                if reference is None:
                    logps = completion_logps(self.policy.model, batch, temperature=temperature)
                else:
                    logps = reference(batch, temperature).sum(-1)
            found[part] = logps.to(found.dtype)
        return self.world.sum(found).tolist()

    def _update(self, items: Sequence[Item], use: int, kl_weight: float) -> dict[str, float]:
        config, pad, device = self.config, self.policy.tokenizer.pad_id, self.world.device

        def loss(model: nn.Module, part: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            batch = collate([items[index].example for index in part], pad, device)
            logps = completion_logps(model, batch, temperature=config.temperature)
            weights, shares, old, start = (
                torch.tensor([items[index][field] for index in part], device=device, dtype=logps.dtype)
                for field in (1, 2, 3, 4)
            )
            statistics: dict[str, Tensor] = {}
            if use == 0:
                total = -(weights * logps).sum()
            else:
                # An expert's completion was not drawn by the policy: its likelihood is raised as it is.
                expert = shares == 0
                old = torch.where(expert, logps.detach(), old)
                losses, cut = clipped_loss(logps[:, None], old[:, None], weights[:, None], clip=config.ratio_clip)
                total = losses.sum()
                statistics["ratios_clipped"] = cut
            if self.reference is not None:
                total = total + kl_weight * (shares * kl_estimate(logps, start, "k2")).sum()
                statistics["kl"] = (shares * kl_estimate(logps.detach(), start, "k1")).sum()
            return total, statistics

        lengths = [item.example.length for item in items]
        parts = length_buckets(lengths, config.micro_batch_tokens, at_least=self.world.size)
        statistics = self.learner.step(parts, loss)
        if self.reference is not None:
            statistics["kl_coef"] = kl_weight
        return statistics

    def _store(self, step: int, groups: Sequence[Group], chosen: Sequence[int]) -> None:
        """Keep a step's samples in a file of its own, which a resumed run writes again."""
        assert self.run_folder.path is not None
        paths = [self.run_folder.path / SAMPLES_FOLDER / f"step-{step:06d}.jsonl"]
        if step == self.config.steps - 1 and not self.trainer.validation:
            paths.append(self.run_folder.path / SAMPLES_FILE)
        rows = [self.trainer.rows[index] for index in chosen]
        for path in paths:
            path.unlink(missing_ok=True)
            SampleStore(path).append(*records(groups, rows, iteration=step, temperature=self.config.temperature))

    def _store_validation(self, groups: Sequence[Group]) -> None:
        """Keep the trained policy's samples of the validation problems, for `fiona evaluate`."""
        assert self.run_folder.path is not None
        path = self.run_folder.path / SAMPLES_FILE
        path.unlink(missing_ok=True)
        found = records(
            groups, self.trainer.validation, iteration=self.config.steps, temperature=self.config.temperature
        )
        SampleStore(path).append(*found)

    def _evaluate(self) -> dict[str, float]:
        """Sample the validation problems, each time with the same seeds, and return what `group_metrics` says."""
        rows, config = self.trainer.validation, self.config
        if not rows:
            return {}
        started = time.perf_counter()
        count = config.eval_samples or max(config.samples, config.n)
        params = SamplingParams(n=count, max_tokens=config.max_tokens, temperature=config.temperature)
        rollouts = Rollouts(
            self.rollouts.sampler, self.policy.tokenizer, self.trainer.verifier, params, self.trainer.selector
        )
        mine = range(self.world.rank, len(rows), self.world.size)
        names = unique([str(row.get("id", place)) for place, row in enumerate(rows)])
        seeds = [[sample_seed(config.seed + VALIDATION_SEED, place, i) for i in range(count)] for place in mine]
        with self.policy.whole():
            groups = rollouts.draw([rows[place] for place in mine], [names[place] for place in mine], seeds)
        groups = gather(self.world, groups)
        if self.run_folder.path is not None and self.result.steps == config.steps:
            self.world.on_main(lambda: self._store_validation(groups))
        found = group_metrics(groups, config.n)
        self.result.seconds["eval"] += time.perf_counter() - started
        return {name: float(value) for name, value in found.items()}


def _rates(groups: Sequence[Group], seconds: Seconds) -> dict[str, float]:
    tokens = sum(len(completion.token_ids or ()) for group in groups for completion in group.completions)
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds.sampling if seconds.sampling else math.nan,
        "seconds_sampling": seconds.sampling,
        "seconds_scoring": seconds.scoring,
        "seconds_waiting": seconds.waiting,
    }
