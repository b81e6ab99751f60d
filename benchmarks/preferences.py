"""A step of preference training against TRL's `DPOTrainer`: same weights, pairs, order and optimizer.

    python benchmarks/preferences.py --out preferences.json

A Llama-shaped model of width 256 and 6 layers with a vocabulary of 8,192; pairs with prompts of 64 to 192 tokens and
completions of 16 to 96. Both sides have the reference's log-probabilities computed beforehand, step with fused AdamW,
clip to norm 1, and checkpoint no activations. TRL's time is that between its callbacks `on_step_begin` and
`on_step_end`: batches are ready before; ours includes making them. The loops take turns step by step, so that a busy
machine slows them alike; medians are compared, and the losses of each step must agree to 1e-5.

- `own`: this trainer and decoder, chosen and rejected in one row behind their prompt;
- `own, two rows`: the same without sharing the prompt;
- `transformers`: this trainer with the very class of model that TRL trains.

Target: `own` at least 1.5 times TRL's speed, with TRL's `sigmoid` and with its `ipo` (of averaged log-probabilities).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar as quiet_datasets
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import PreferenceKind
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import Policy, Preferences, PreferencesConfig, Run
from fionalm.posttraining.preferences import PreferenceTraining
from fionalm.posttraining.supervised import batch_of
from fionalm.training.distributed import World

VOCAB, BATCH, LR, WARM_UP = 8192, 8, 1e-5, 2
ALPHABET = "".join(chr(0x4E00 + index) for index in range(VOCAB - 1))
SHAPE = DecoderConfig(
    vocab_size=VOCAB, d_model=256, n_layers=6, n_heads=8, d_ff=704, norm="rmsnorm", mlp="silu_gated", max_seq_len=512
)
TARGET, TOLERANCE = 1.5, 1e-5
LOSSES: dict[str, tuple[PreferenceKind, float]] = {"sigmoid": ("dpo", 0.1), "ipo": ("ipo", 1.0)}
"""TRL's name of a loss, ours, and beta."""


def make_rows(count: int) -> list[dict[str, str]]:
    """Return pairs of random characters, each of which is a token."""
    generator = torch.Generator().manual_seed(0)

    def text(shortest: int, longest: int) -> str:
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return "".join(ALPHABET[i] for i in torch.randint(VOCAB - 1, (length,), generator=generator).tolist())

    return [{"prompt": text(64, 192), "chosen": text(16, 96), "rejected": text(16, 96)} for _ in range(count)]


def own_training(model: Any, rows: list[dict[str, str]], loss: str, sharing: Any) -> PreferenceTraining:
    """Return this project's training of a model, to be taken step by step."""
    kind, beta = LOSSES[loss]
    config = PreferencesConfig(
        loss=kind,
        beta=beta,
        average_logps=loss == "ipo",
        optimizer=OptimizerConfig(lr=LR, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(name="constant"),
        batch_size=BATCH,
        micro_batch_tokens=1 << 20,
        shared_prompt=sharing,
    )
    policy = Policy(model, character_tokenizer(ALPHABET), device="cpu")
    world = World(policy.device)
    return PreferenceTraining(Preferences(policy, rows, config, quiet=True), Run(None, world, None, None), world)


class InOrder(trl.DPOTrainer):
    """TRL's trainer on its rows in their order, recording its losses."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*args, **keywords)

    def _get_train_sampler(self, *_: Any) -> Any:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args: Any, **keywords: Any) -> Any:
        """Return TRL's loss, and remember it."""
        loss = super().compute_loss(*args, **keywords)
        self.losses.append(float(loss))
        return loss


class TakingTurns(TrainerCallback):
    """Times TRL's steps, and after each makes and times one of every other training."""

    def __init__(self, others: dict[str, PreferenceTraining]) -> None:
        self.others, self.began = others, 0.0
        self.seconds: dict[str, list[float]] = {name: [] for name in ("trl", *others)}
        self.losses: dict[str, list[float]] = {name: [] for name in others}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start TRL's clock."""
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it, and let the others make their step."""
        self.seconds["trl"].append(time.perf_counter() - self.began)
        for name, training in self.others.items():
            began = time.perf_counter()
            self.losses[name].append(training.step()["loss"])
            self.seconds[name].append(time.perf_counter() - began)


def measure(loss: str, steps: int, folder: str) -> dict[str, Any]:
    """Return seconds a step, ratios to TRL's and the largest difference of losses, by training."""
    rows = make_rows(steps * BATCH)
    order = [index for step in range(steps) for index in batch_of(step, len(rows), BATCH, 0)]
    decoder = Decoder(SHAPE, torch.Generator().manual_seed(0))
    decoder.save_pretrained(folder)
    others = {
        "own": own_training(Decoder.from_pretrained(folder), rows, loss, "always"),
        "own, two rows": own_training(Decoder.from_pretrained(folder), rows, loss, "never"),
        "transformers": own_training(AutoModelForCausalLM.from_pretrained(folder), rows, loss, "auto"),
    }
    turns = TakingTurns(others)
    trainer = InOrder(
        AutoModelForCausalLM.from_pretrained(folder),
        args=trl.DPOConfig(
            output_dir=folder, loss_type=[loss], beta=LOSSES[loss][1], per_device_train_batch_size=BATCH,
            learning_rate=LR, lr_scheduler_type="constant", max_length=None, precompute_ref_log_probs=True,
            gradient_checkpointing=False, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, num_train_epochs=1,
        ),
        train_dataset=Dataset.from_list([rows[index] for index in order]),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=character_tokenizer(ALPHABET), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
        ),
        callbacks=[turns],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    medians = {name: statistics.median(values[WARM_UP:]) for name, values in turns.seconds.items()}
    return {
        "loss": loss,
        "sharing_gain": others["own"].gain,
        "seconds": turns.seconds,
        "ratio": {name: medians["trl"] / median for name, median in medians.items()},
        "median": medians,
        "difference": {
            name: max(abs(a - b) for a, b in zip(values, trainer.losses, strict=True))
            for name, values in turns.losses.items()
        },
    }


def main() -> bool:
    """Print a table, write JSON, and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every loop")
    parser.add_argument("--steps", type=int, default=10, help="steps a loop; the first two are not timed")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["TQDM_DISABLE"] = "1"
    disable_progress_bar()
    quiet_datasets()
    set_verbosity_error()
    warnings.filterwarnings("ignore")
    print(f"d {SHAPE.d_model} L {SHAPE.n_layers} V {VOCAB}, {BATCH} pairs a step, fp32, {arguments.threads} threads")
    results, met = [], True
    for loss in LOSSES:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(loss, arguments.steps, folder)
        results.append(result)
        print(f"{loss}: one row a pair has {result['sharing_gain']:.2f} times fewer tokens than two")
        for name, median in result["median"].items():
            difference = result["difference"].get(name)
            same = "" if difference is None else f"  largest difference of losses {difference:.1e}"
            print(f"  {name:14} {median:6.3f} s a step, ratio {result['ratio'][name]:5.2f}{same}")
        good = result["ratio"]["own"] >= TARGET and max(result["difference"].values()) <= TOLERANCE
        met &= good
        print(f"  target {TARGET} times TRL and losses within {TOLERANCE:g}: {'met' if good else 'missed'}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return met


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
