"""ReST-EM: a model learns from its own solutions that a verifier finds right (Singh et al. 2023, Algorithm 1).

    RestEM(policy, rows, make_verifier("number"), RestEMConfig(), validation=held_out, out="runs/rest-em").run()

An iteration draws samples from the current policy and verifies them (Generate, the E-step), then fine-tunes the base
model, not the current policy, on those that are right (Improve, the M-step): it maximises
E_{y ~ p_t(.|x)} [r(x, y) log p(y|x)] (equation 5), until the reward on validation problems no longer rises.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fionalm.errors import UserError
from fionalm.models.weight_files import write_safetensors
from fionalm.posttraining.batches import Example, encode_example
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.rest_em_config import RestEMConfig
from fionalm.posttraining.rest_em_filter import generation_statistics, right_solutions
from fionalm.posttraining.rest_em_samples import Problems, Row, Samples, generate, missing
from fionalm.posttraining.run import MODEL_FOLDER, Run, fingerprint, open_run
from fionalm.posttraining.supervised import Fit, fit
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World, distributed
from fionalm.verifiers.cached import CachedVerifier
from fionalm.verifiers.identity import describe
from fionalm.verifiers.types import Verifier

WEIGHTS_FILE = "weights.safetensors"
Evaluate = Callable[[Policy, int], Mapping[str, Any]]
"""`evaluate(policy, iteration)`: values that join the iteration's row of metrics; 0 is the base."""


class NothingRight(UserError):
    """No sample of an iteration was right and fit to learn from.

    Attributes:
        rows: metrics of the iterations before it, the base's first.
    """

    def __init__(self, message: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass
class RestEMResult:
    """What a run came to; the policy has the weights of iteration `taken`."""

    taken: int
    """The iteration whose policy is the result."""
    validation_reward: float | None = None
    """Its mean reward on the validation problems, answered greedily; None: there are none."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Metrics, one row an iteration; row 0 is the base."""


class RestEM:
    """Iterated self-training with a verifier; everything goes to a run folder that can be resumed.

    Args:
        policy: the base model; changed in place.
        rows: problems: `prompt`, the columns that the verifier reads, such as `answer` or `tests`, optionally `id`,
            and `completion`, a human's solution, where `human_data` asks for it.
        verifier: judges completions; equal ones of a problem once.
        config: how.
        validation: problems that are not learnt from; their reward stops a fine-tuning early and chooses its weights.
        evaluate: measures the base and the policy of each iteration.
        out: run folder; None: nothing is written.
        quiet: no progress.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Sequence[Row],
        verifier: Verifier,
        config: RestEMConfig,
        *,
        validation: Sequence[Row] | None = None,
        evaluate: Evaluate | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.policy, self.config = policy, config
        self.verifier = verifier if isinstance(verifier, CachedVerifier) else CachedVerifier(verifier)
        self.evaluate, self.out, self.quiet = evaluate, out, quiet
        self.problems = Problems(rows, config.prompt_prefix)
        self.validation = Problems(validation or (), config.prompt_prefix)
        if not len(self.problems):
            raise UserError("there are no problems to sample: expected at least one row")

    def run(self) -> RestEMResult:
        """Train, save the model, and return what came of it.

        Raises:
            UserError: rows that cannot be used (the row is named), or a folder of another run.
            NothingRight: an iteration has no sample to learn from.
            KeyboardInterrupt: stopped; says how to resume.
        """
        config, policy = self.config, self.policy
        with distributed(policy.device) as world:
            if config.lora is not None:
                policy.add_lora(config.lora, seed=config.seed)
            self._check_rows()
            settings = {
                "method": "rest-em",
                "model": policy.name,
                "data": fingerprint([*self.problems.rows, None, *self.validation.rows]),
                "verifier": describe(self.verifier),
                **to_plain(config),
            }
            with open_run(self.out, settings, world) as run, ThreadPoolExecutor(1) as executor:
                return _Running(self, run, world, executor).run()

    def _check_rows(self) -> None:
        """Find what would fail hours into the run."""
        tokenizer, context = self.policy.tokenizer, self.policy.context_length
        for problems in (self.problems, self.validation):
            if len(problems):
                self.verifier.check(problems.columns(range(len(problems))))
            for number, prompt in enumerate(problems.prompts, 1):
                length = len(tokenizer.encode_prompt(prompt))
                if not length or (context is not None and length >= context):
                    raise UserError(
                        f"row {number}: a prompt of {length} tokens: expected at least 1"
                        + (f", and fewer than the model's context of {context}" if context else "")
                    )
        for number, row in enumerate(self.problems.rows if self.config.human_data else (), 1):
            if "completion" not in row:
                raise UserError(
                    f"human_data was asked for, but row {number} has no 'completion', only {', '.join(row)}: expected "
                    "a human's solution in every row"
                )


class _Running:
    def __init__(self, method: RestEM, run: Run, world: World, executor: ThreadPoolExecutor) -> None:
        self.method, self.recorded, self.world, self.executor = method, run, world, executor
        self.policy, self.config, self.path = method.policy, method.config, run.path
        self.quiet = method.quiet or not world.is_main
        self.base = self.policy.snapshot()
        self.weights: dict[int, dict[str, Tensor]] = {0: self.base}
        """Weights by iteration that are in memory."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.validation_failures = 0
        """Of the newest validation; answers that the verifier could not judge, which are left out."""

    def run(self) -> RestEMResult:
        done = max(self.world.on_main(lambda: [row["step"] for row in self.recorded.rows]), default=-1)
        if self.recorded.result is None:
            samples = Samples(self.path, self.world)
            if done < 0:
                self._record({"step": 0, **self._measured(0)})
            for iteration in range(max(done, 0) + 1, self.config.iterations + 1):
                self._iterate(iteration, samples)
            self._finish()
        rows = self.world.on_main(lambda: self.recorded.rows)
        result: dict[str, Any] = self.recorded.result or {}
        self.policy.restore(self._weights(result["taken"]))
        return RestEMResult(result["taken"], result["validation_reward"], rows)

    def _iterate(self, iteration: int, samples: Samples) -> None:
        config, problems = self.config, self.method.problems
        generation = config.generation(iteration)
        self.seconds.clear()
        if missing(problems, config, generation, samples):
            self.policy.restore(self._weights(generation))
        with self.policy.whole():
            seconds = generate(
                self.policy.sampler(max_batch=config.max_batch),
                problems,
                self.method.verifier,
                config,
                generation,
                samples,
                self.world,
                executor=self.executor,
                interruptible=self.path is not None,
                quiet=self.quiet,
            )
        self.seconds.update(seconds)
        drawn = samples.of(generation, problems, config.samples_per_problem)
        encode = self.policy.tokenizer.encode_completion
        kept = [right_solutions(records, config, iteration, lambda text: len(encode(text))) for records in drawn]
        found = self._improve(iteration, kept)
        counted = generation_statistics(drawn, kept, config.threshold(iteration))
        self._record({"step": iteration, **counted, **self._measured(iteration, found)})

    def _improve(self, iteration: int, kept: Sequence[Sequence[str]]) -> Fit:
        """Fine-tune the start on what was kept; the policy and, if there is a folder, its file have the weights."""
        config, policy, problems = self.config, self.policy, self.method.problems
        examples = self._examples(kept)
        if not examples:
            raise NothingRight(
                f"iteration {iteration}: none of {len(problems) * config.samples_per_problem:,} samples was right and "
                "fit to learn from: expected some; give easier problems, more samples or a better base model",
                self.world.on_main(lambda: self.recorded.rows),
            )
        policy.restore(self.base if config.start == "base" else self._weights(iteration - 1))
        folder = None if self.path is None else self.path / f"iteration-{iteration:02}"
        settings = {"method": "rest-em", "iteration": iteration}
        with self._timed("improve"), open_run(folder, settings, self.world) as log:
            if log.result is not None:  # killed after the fine-tuning, before its row of metrics
                policy.restore(self._weights(iteration))
                return Fit(**log.result)
            found = fit(
                policy,
                examples,
                config.supervised(iteration),
                validate=self._validate if len(self.method.validation) else None,
                folder=folder,
                log=log,
                world=self.world,
                quiet=self.quiet,
                description=f"iteration {iteration}: fine-tuning",
            )
            self._keep_weights(iteration, folder)
            log.finish({name: value for name, value in asdict(found).items() if name != "rows"})
            if folder is not None:  # the weights say it all; optimizer state and earlier bests would fill the disk
                self.world.on_main(lambda: _remove_checkpoints(folder))
        return found

    def _keep_weights(self, iteration: int, folder: Path | None) -> None:
        weights = self.policy.snapshot()
        if folder is not None:
            self.world.on_main(lambda: write_safetensors(folder / WEIGHTS_FILE, weights))
        if folder is not None or self.config.take == "last":
            self.weights = {0: self.base}
        self.weights[iteration] = weights

    def _examples(self, kept: Sequence[Sequence[str]]) -> list[Example]:
        problems, tokenizer, context = self.method.problems, self.policy.tokenizer, self.policy.context_length
        examples = []
        for number, (row, prompt, completions) in enumerate(zip(problems.rows, problems.prompts, kept, strict=True)):
            human = [row["completion"]] if self.config.human_data else []
            for completion in (*completions, *human):
                examples.append(encode_example(tokenizer, prompt, completion, context=context, row=number + 1))
        return examples

    def _validate(self, policy: Policy) -> float:
        """Return the mean reward of greedy answers to the validation problems, each process's share of them."""
        problems, world = self.method.validation, self.world
        share = range(world.rank, len(problems), world.size)
        prompts = [problems.prompts[number] for number in share]
        with policy.whole():
            drawn = policy.sampler(max_batch=self.config.max_batch).sample(prompts, self.config.greedy_params())
        verdicts = problems.judge(self.method.verifier, share, [completion.text for [completion] in drawn])
        rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
        total = torch.tensor([sum(rewards), float(len(rewards))], dtype=torch.float64, device=world.device)
        reward, count = world.sum(total).tolist()
        if not count:
            why = next((one.detail or one.outcome for one in verdicts), "all failed")
            raise UserError(
                f"the verifier could judge none of the {len(problems)} answers to validation problems ({why}): "
                "expected a verifier that works on them"
            )
        self.validation_failures = len(problems) - int(count)
        return reward / count

    def _measured(self, iteration: int, found: Fit | None = None) -> dict[str, Any]:
        """Return what is known of the iteration's policy, which the policy now is."""
        row: dict[str, Any] = {}
        if found is not None:
            row |= {"loss": found.loss, "fit_steps": found.steps, "best_step": found.best_step}
        if found is not None and found.best_value is not None:
            row["validation_reward"] = found.best_value
        elif len(self.method.validation):
            with self._timed("validate"):
                row["validation_reward"] = self._validate(self.policy)
        if len(self.method.validation):
            row["validation_failures"] = self.validation_failures
        if self.method.evaluate is not None:
            with self._timed("evaluate"), self.policy.whole():
                row |= self.method.evaluate(self.policy, iteration)
        row["seconds"] = dict(self.seconds)
        row["peak_memory_bytes"] = peak_memory_bytes(self.world.device)
        return row

    def _record(self, row: dict[str, Any]) -> None:
        if self.world.is_main:
            self.recorded.append(row)

    def _finish(self) -> None:
        rows = self.world.on_main(lambda: self.recorded.rows)
        rewards = {row["step"]: row["validation_reward"] for row in rows if "validation_reward" in row}
        taken = self.config.iterations
        if self.config.take == "best" and rewards:
            taken = max(rewards, key=lambda iteration: (rewards[iteration], -iteration))
        self.policy.restore(self._weights(taken))
        if self.path is not None:
            self.policy.save(self.path / MODEL_FOLDER, world=self.world)
        self.recorded.finish({"taken": taken, "validation_reward": rewards.get(taken)})

    def _weights(self, iteration: int) -> dict[str, Tensor]:
        if iteration in self.weights:
            return self.weights[iteration]
        from safetensors.torch import load_file

        assert self.path is not None
        return load_file(self.path / f"iteration-{iteration:02}" / WEIGHTS_FILE)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that was in use: the device's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "best.safetensors").unlink(missing_ok=True)
