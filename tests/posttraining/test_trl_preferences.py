"""The adapter in real DPO runs: TRL's own losses where TRL has them, and this project's trainer's where it has not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_preferences import make_pairs
from tiny_policies import ALPHABET

pytest.importorskip("trl")
pytest.importorskip("datasets")

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.objectives import PREFERENCE_KINDS, PreferenceKind
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import Policy, Preferences, PreferencesConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
STEPS, LR = 3, 3e-3


def tiny_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ALPHABET) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=character_tokenizer(ALPHABET), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def trl_losses(folder: Path, name: str, rows: list[dict[str, Any]], *, soft: Any = None, **changes: Any) -> list[float]:
    """Return the losses of full-batch steps by `trl.DPOTrainer`, or by the adapter with the keywords `soft`."""
    import trl
    from datasets import Dataset

    from fionalm.posttraining.trl_adapters import SoftDPOTrainer

    options: dict[str, Any] = {
        "output_dir": str(folder / name), "per_device_train_batch_size": len(rows), "max_steps": STEPS,
        "learning_rate": LR, "lr_scheduler_type": "constant", "max_length": None, "use_cpu": True, "report_to": "none",
        "bf16": False, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "gradient_checkpointing": False,
        "logging_strategy": "steps", **changes,
    }  # fmt: skip
    trainer_class = trl.DPOTrainer if soft is None else SoftDPOTrainer
    trainer = trainer_class(
        tiny_model(),
        ref_model=None if changes.get("precompute_ref_log_probs") else tiny_model(),
        args=trl.DPOConfig(**options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        **(soft or {}),
    )
    losses = []
    compute = trainer.compute_loss

    def recorded(*args: Any, **keywords: Any) -> Any:
        loss = compute(*args, **keywords)
        losses.append(float(loss))
        return loss

    trainer.compute_loss = recorded
    trainer.train()
    assert "rewards/margins" in trainer.state.log_history[0]
    return losses


def hard_pairs() -> list[dict[str, Any]]:
    return [{**row, "soft_label": 1.0} for row in make_pairs(6)]


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize(
    ("kind", "loss_type", "beta"), [("geometric_dpo", "sigmoid", 0.1), ("geometric_ipo", "ipo", 1.0)]
)
def test_sure_labels_give_trls_own_losses(
    kind: PreferenceKind, loss_type: str, beta: float, precompute: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"beta": beta, "precompute_ref_log_probs": precompute}
    theirs = trl_losses(tmp_path, "theirs", make_pairs(6), loss_type=[loss_type], **options)
    ours = trl_losses(tmp_path, "ours", hard_pairs(), soft={"kind": kind}, **options)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert theirs[-1] < theirs[0]


@pytest.mark.parametrize("kind", PREFERENCE_KINDS)
def test_soft_labels_give_the_losses_of_this_projects_trainer(kind: PreferenceKind, tmp_path: Path) -> None:
    rows = make_pairs(6)
    config = PreferencesConfig(
        loss=kind,
        optimizer=OptimizerConfig(lr=LR, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(name="constant"),
        batch_size=len(rows),
        steps=STEPS,
        average_logps=kind.endswith("ipo"),
    )
    policy = Policy(tiny_model(), tokenizer(), device="cpu")
    expected = [row["loss"] for row in Preferences(policy, rows, config, quiet=True).run().rows]
    found = trl_losses(tmp_path, "ours", rows, soft={"kind": kind}, beta=config.chosen_beta)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_evaluation_and_lora_use_the_labels_too(tmp_path: Path) -> None:
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from fionalm.posttraining.trl_adapters import SoftDPOTrainer

    rows = make_pairs(4)
    ties = [{**row, "soft_label": 0.5} for row in rows]
    trainer = SoftDPOTrainer(
        tiny_model(),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), max_steps=2, learning_rate=0.1, use_cpu=True, report_to="none", bf16=False,
            save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, per_device_train_batch_size=4,
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(ties),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)  # -log sigmoid(0 h), whatever h is
    assert abs(found["eval_rewards/margins"]) > 1e-4


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    rows = make_pairs(3)
    with pytest.raises(UserError, match="did you mean 'geometric_dpo'"):
        trl_losses(tmp_path, "a", rows, soft={"kind": "geometric"})
    with pytest.raises(UserError, match=r"row 2: the soft_label is 1.5"):
        trl_losses(tmp_path, "b", [rows[0], {**rows[1], "soft_label": 1.5}], soft={})
    with pytest.raises(UserError, match="loss_type was set in DPOConfig"):
        trl_losses(tmp_path, "c", rows, soft={}, loss_type=["hinge"])
