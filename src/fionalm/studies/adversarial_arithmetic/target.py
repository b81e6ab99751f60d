"""The tiny target: a decoder trained on arithmetic dialogue, kept in the cache folder; and its hardened self.

The tokenizer ends every prompt with `<|assistant|>`, so that any text is a turn of the dialogue.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fionalm.data import train_tokenizer
from fionalm.data.cache import build_once, content_key
from fionalm.data.tasks import dialogue_rows
from fionalm.models import Decoder
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import Policy, SupervisedConfig, encode_example, fit, load_policy
from fionalm.studies.adversarial_arithmetic.runs import VOCABULARY, Target
from fionalm.training import to_plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ASSISTANT = "<|assistant|>"
TOKENIZER_ROWS = 4000
MICRO_BATCH_TOKENS = 768
VERSION = 1
"""Part of what a target is kept under, with some of the corpus: raised when a change of the code makes others of the
same settings."""


def dialogue_tokenizer() -> Tokenizer:
    """Return byte-level BPE in which the dialogue's words are a token each, and any other text can be written."""
    from tokenizers import pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    texts = (f" {row['prompt']} {row['completion']}" for row in dialogue_rows(TOKENIZER_ROWS))
    tokenizer = train_tokenizer(texts, VOCABULARY, marks=(ASSISTANT,))
    # A number is one token wherever it stands: at the start of a prompt or a completion it gets its space too.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {ASSISTANT}", special_tokens=[(ASSISTANT, tokenizer.token_to_id(ASSISTANT))]
    )
    return tokenizer


def target_policy(target: Target) -> Policy:
    """Return the target: trained on its corpus, or taken from the cache folder."""
    return load_policy(build_once(folder_of(target), lambda folder: _train(target, folder)), device="cpu")


def folder_of(target: Target) -> Path:
    """Return where a target is kept."""
    return home() / "models" / f"arithmetic-dialogue-{content_key(VERSION, to_plain(target), dialogue_rows(200))}"


def _train(target: Target, folder: Path) -> None:
    model = Decoder(target.decoder, torch.Generator().manual_seed(target.seed))
    policy = Policy(model, dialogue_tokenizer(), device="cpu")
    # Each dialogue is met twice; those of seed 0 are the tokenizer's.
    rows = dialogue_rows(target.steps * target.batch_size // 2, seed=target.seed + 1)
    config = SupervisedConfig(
        optimizer=OptimizerConfig(lr=target.lr, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(name="linear", warmup_steps=target.steps // 20),
        batch_size=target.batch_size,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        steps=target.steps,
        seed=target.seed,
    )
    examples = [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows]
    fit(policy, examples, config, quiet=True)
    policy.save(folder)
