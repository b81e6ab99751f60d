"""Fine-tuning for the way the model will be sampled: best-of-N-aware methods and their baselines, in one trainer.

    BestOfN(policy, rows, make_verifier("number"), BestOfNConfig(method="bon-rlb-p", n=16), out="runs/bon").run()

Each step draws M samples of some prompts from the policy, judges them, weighs them by the method's objective (Chow et
al. 2024, arXiv 2412.15287) and takes a policy-gradient update. With several processes each draws its share of the
prompts and trains on its share of the samples; the numbers are those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fionalm.errors import UserError, nearest
from fionalm.posttraining.batches import Example, encode_example
from fionalm.posttraining.best_of_n_config import SUPERVISED, BestOfNConfig
from fionalm.posttraining.best_of_n_training import BestOfNResult, Training
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.rollouts import Row, Selector
from fionalm.posttraining.run import fingerprint, open_run
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import distributed
from fionalm.verifiers import Verifier, describe


class BestOfN:
    """The trainer; everything goes to a run folder that can be resumed.

    Args:
        policy: changed in place.
        rows: `prompt` and the verifier's columns; `completion` for sft and bon-sft; `id` names problems, if given.
        verifier: gives rewards; where it fails the sample is left out and counted.
        config: how.
        selector: scores completions for bon-rl-v, and for bon-sft in place of the reward, such as a `RewardModel`.
        validation: rows that are not learnt from.
        out: run folder; None: nothing is written.
        quiet: no progress.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Sequence[Row],
        verifier: Verifier,
        config: BestOfNConfig,
        *,
        selector: Selector | None = None,
        validation: Sequence[Row] | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.policy, self.rows, self.verifier, self.config = policy, list(rows), verifier, config
        self.selector, self.validation = selector, list(validation or ())
        self.out, self.quiet = out, quiet
        self.batch_size = min(config.batch_size, len(self.rows))
        self.draws = config.method != "sft"
        self._check()
        self.experts = self._encoded_experts() if config.method in SUPERVISED else []

    def run(self) -> BestOfNResult:
        """Train, save the model, and return what came of it.

        Raises:
            UserError: a folder of another run, a verifier that does not fit the data or the method, a full disk.
            KeyboardInterrupt: stopped after a step; says how to resume.
        """
        with distributed(self.policy.device) as world:
            settings = {
                "model": self.policy.name,
                "data": fingerprint([*self.rows, None, *self.validation]),
                "verifier": describe(self.verifier),
                "selector": None if self.selector is None else describe(self.selector),
                **to_plain(self.config),
            }
            with open_run(self.out, settings, world) as run:
                if run.result is not None:
                    return BestOfNResult(**{**run.result, "rows": run.rows})
                return Training(self, run, world).run()

    def _check(self) -> None:
        config, context = self.config, self.policy.context_length
        if not self.rows:
            raise UserError("there are no prompts to learn from: expected at least one row")
        if config.method == "bon-rl-v" and self.selector is None:
            raise UserError(
                "bon-rl-v was given no selecting verifier: expected a reward model, or method bon-rl-s, in which the "
                "reward selects"
            )
        need = ("prompt", "completion") if config.method in SUPERVISED else ("prompt",)
        for number, row in enumerate([*self.rows, *self.validation], 1):
            for name in need if number <= len(self.rows) else ("prompt",):
                if name not in row:
                    raise UserError(
                        f"row {number} has no column {name!r}, which method {config.method} learns from: it has "
                        f"{', '.join(row)}{nearest(name, row)}"
                    )
            length = len(self.policy.tokenizer.encode_prompt(row["prompt"]))
            if context is not None and length >= context:
                raise UserError(
                    f"row {number}: the prompt's {length} tokens leave no room in the model's context: expected at "
                    f"most {context - 1}"
                )

        check = getattr(self.verifier, "check", None)
        if check is not None:  # right answers that the verifier cannot read, before anything is spent
            everything = [*self.rows, *self.validation]
            names = dict.fromkeys(name for row in everything for name in row)
            check({name: [row.get(name) for row in everything] for name in names})

    def _encoded_experts(self) -> list[Example]:
        return [
            encode_example(
                self.policy.tokenizer, row["prompt"], row["completion"], context=self.policy.context_length, row=number
            )
            for number, row in enumerate(self.rows, 1)
        ]
