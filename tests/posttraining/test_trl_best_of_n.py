"""The adapter in real GRPO runs: the update is the objective's gradient, and nothing is rescaled on the way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("datasets")

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.objectives import unbiased_pass_at_n_advantages
from fionalm.objectives.pass_at_n import PassAtNForm
from fionalm.posttraining import token_logps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SAMPLES, LONGEST, LR = 8, 4, 0.5


def tiny_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=character_tokenizer("0123:"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def starts_with_prompt(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
    """Right if the completion begins as the prompt does; an empty one cannot be judged."""
    return [float(c[0] == p[0]) if c else None for p, c in zip(prompts, completions, strict=True)]


def make_trainer(folder: Path, advantages: Any, **changes: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig

    from fionalm.posttraining.trl_best_of_n import BestOfNGRPOTrainer

    class Recording(BestOfNGRPOTrainer):
        seen: tuple[dict[str, torch.Tensor], ...] = ()

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            self.seen = (*self.seen, {k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
            return super()._compute_loss(model, inputs)

    options: dict[str, Any] = {
        "output_dir": str(folder), "num_generations": SAMPLES, "per_device_train_batch_size": 2 * SAMPLES,
        "max_completion_length": LONGEST, "max_steps": 1, "learning_rate": LR, "optim": "sgd", "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "loss_type": "dr_grpo", "use_cpu": True, "report_to": "none", "bf16": False,
        "beta": 0.0, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    return Recording(
        tiny_model(),
        reward_funcs=starts_with_prompt,
        args=GRPOConfig(**{**options, **changes}),
        train_dataset=Dataset.from_list([{"prompt": f"{digit}:"} for digit in "0123"]),
        processing_class=tokenizer(),
        advantages=advantages,
    )


@pytest.mark.parametrize("form", ["leave_one_out", "subsets"])
def test_a_real_step_is_the_gradient_of_pass_at_n(tmp_path: Path, form: PassAtNForm) -> None:
    advantages = partial(unbiased_pass_at_n_advantages, n=3, form=form)
    trainer = make_trainer(tmp_path, advantages)
    before = tiny_model()
    trainer.train()
    [inputs] = trainer.seen
    texts = trainer.processing_class.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
    prompts = trainer.processing_class.batch_decode(inputs["prompt_ids"], skip_special_tokens=True)
    rewards = torch.tensor([float("nan") if r is None else r for r in starts_with_prompt(prompts, texts)])
    # TRL shuffles the samples of a generation, so groups are found by their prompts.
    weights = torch.zeros(len(prompts))
    for prompt in set(prompts):
        places = torch.tensor([i for i, p in enumerate(prompts) if p == prompt])
        assert len(places) == SAMPLES
        weights[places] = advantages(rewards[None, places])[0]
    assert weights.abs().sum() > 0
    torch.testing.assert_close(inputs["advantages"], weights)

    ids = torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    width = inputs["prompt_ids"].shape[1]
    logps = token_logps(before, ids)[:, width - 1 :] * inputs["completion_mask"]
    (-(weights * logps.sum(-1)).mean() / LONGEST).backward()
    for (name, old), new in zip(before.named_parameters(), trainer.model.parameters(), strict=True):
        assert old.grad is not None, name
        torch.testing.assert_close(new.detach(), old.detach() - LR * old.grad, rtol=1e-4, atol=1e-6)


def test_a_real_run_raises_pass_at_n(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        partial(unbiased_pass_at_n_advantages, n=2),
        max_steps=25,
        learning_rate=3e-2,
        optim="adamw_torch",
        per_device_train_batch_size=4 * SAMPLES,
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1


def test_what_would_change_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dr_grpo"):
        make_trainer(tmp_path, partial(unbiased_pass_at_n_advantages, n=3), loss_type="grpo")
    with pytest.raises(UserError, match="at least as many samples as n"):
        make_trainer(tmp_path, partial(unbiased_pass_at_n_advantages, n=SAMPLES + 1))
    with pytest.raises(UserError, match="one a sample"):
        make_trainer(tmp_path, lambda rewards: rewards.mean(-1))
