"""A learned verifier: a causal language model with a scalar head, which scores completions of prompts.

    RewardTrainer(load_policy("smollm2"), rows, RewardConfig(), out="runs/reward").run()
    RewardModel.load("runs/reward").score(["2+2="], ["4"])

Rows with `label` (or `reward`: right or wrong samples) train it by cross-entropy, rows with `chosen` and `rejected` by
the Bradley-Terry likelihood. It is what selects in BoN-RL-V, and with `--reward-model` in
`fiona sample` and `fiona evaluate`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.data import Prompt, TextTokenizer, completion_text
from fionalm.data.text_tokenizer import Message
from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.paths import atomic_write_text
from fionalm.posttraining.batches import Example, length_buckets
from fionalm.posttraining.forward import features
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.reward_config import Reads
from fionalm.posttraining.run import MODEL_FOLDER
from fionalm.training.distributed import World

HEAD_FILE = "reward_head.safetensors"
FACTS_FILE = "reward.json"
Answer = str | Sequence[Message] | Sequence[int]
"""A completion: a text, messages, or token ids as they were drawn."""


class ScalarHead(nn.Module):
    """A causal language model whose features at a row's last token give one number."""

    def __init__(self, model: nn.Module, *, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        width = model.get_input_embeddings().weight.shape[1]  # pyright: ignore
        self.score = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.score.weight.normal_(std=width**-0.5, generator=generator)
            self.score.bias.zero_()

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores [b] of rows [b, s], padded at the right, of the given lengths [b]."""
        return self.score(self.features(input_ids, lengths)).squeeze(-1)

    def features(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return what the head reads [b, d]: the features at each row's last token."""
        found = features(self.model, input_ids)
        last = found[torch.arange(len(found), device=found.device), lengths - 1]
        return last.to(self.score.weight.dtype)


class RewardModel:
    """Scores completions; larger is better. With labels the score is the logit of being right.

    Args:
        module: a `ScalarHead`.
        tokenizer: of its language model.
        reads: what is scored: `completion`, with its prompt before it, or the `prompt` alone.
    """

    def __init__(self, module: ScalarHead, tokenizer: Any, *, reads: Reads = "completion") -> None:
        self.module, self.reads = module.eval(), reads
        self.tokenizer = TextTokenizer(tokenizer)
        config = getattr(module.model, "config", None)
        self.context: int | None = getattr(config, "max_seq_len", None) or getattr(
            config, "max_position_embeddings", None
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.module.score.weight.device

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Answer]) -> list[float]:
        """Return `score(prompts, completions)`, so that the model itself is a selector."""
        return self.score(prompts, completions)

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        micro_batch_tokens: int = 16384,
    ) -> list[float]:
        """Return a score for each completion.

        Args:
            prompts: one a completion.
            completions: texts, messages of which the content counts, or token ids.
            micro_batch_tokens: tokens of one forward pass.

        Raises:
            UserError: as many prompts as completions are not there, or one that the context does not hold.
        """
        if len(prompts) != len(completions):
            raise UserError(f"{len(prompts)} prompts for {len(completions)} completions: expected one each")
        examples = self.encode(prompts, completions)
        scores = torch.zeros(len(examples))
        for part in length_buckets([example.length for example in examples], micro_batch_tokens):
            input_ids, lengths = stacked([examples[index] for index in part], self.tokenizer.pad_id, self.device)
            scores[part] = self.module(input_ids, lengths).float().cpu()
        return scores.tolist()

    def describe(self) -> dict[str, Any]:
        """Return what tells this model from others: a digest of its head, which any training changes."""
        head = b"".join(
            _whole(value).float().cpu().numpy().tobytes() for value in self.module.score.state_dict().values()
        )
        return {"name": "reward model", "head": hashlib.sha256(head).hexdigest()[:16]}

    def encode(self, prompts: Sequence[Prompt], completions: Sequence[Answer]) -> list[Example]:
        """Return what is scored as token ids; equal neighbouring prompts are read once.

        A completion that fills the context goes without its end-of-sequence, as it was drawn. One that is given as
        token ids is taken as it is, and so holds its end-of-sequence if it was drawn.

        Raises:
            UserError: a prompt and completion that are longer than the context, or a prompt without tokens where
                prompts alone are read.
        """
        found: list[Example] = []
        latest: tuple[Prompt, tuple[int, ...]] | None = None
        for prompt, completion in zip(prompts, completions, strict=True):
            if latest is None or latest[0] is not prompt:
                latest = (prompt, tuple(self.tokenizer.encode_prompt(prompt)))
            if self.reads == "prompt":
                if not latest[1]:
                    raise UserError("a prompt was empty: expected at least one token to score")
                ids = ()
            else:
                ids = self._completion_ids(completion)
            length = len(latest[1]) + len(ids)
            if self.context is not None and length > self.context:
                if length > self.context + 1:
                    raise UserError(
                        f"a prompt and completion of {length - 1} tokens: expected at most the {self.context} of the "
                        "reward model's context"
                    )
                ids = ids[:-1]
            found.append(Example(latest[1], ids))
        return found

    def _completion_ids(self, completion: str | Sequence[Message] | Sequence[int]) -> tuple[int, ...]:
        if not isinstance(completion, str) and all(isinstance(token, int) for token in completion):
            return tuple(completion)  # pyright: ignore[reportReturnType]
        return tuple(self.tokenizer.encode_completion(completion_text(completion)))  # pyright: ignore[reportArgumentType]

    def save(self, folder: str | Path, *, policy: Policy | None = None, world: World | None = None) -> None:
        """Write the language model, as `load_model` reads it, with the head beside it.

        Args:
            folder: made if absent.
            policy: of the language model, which knows its adapters; None: there are none.
            world: the processes, each of which calls this.

        Raises:
            UserError: the folder cannot be written.
        """
        from fionalm.models.weight_files import write_safetensors

        folder, world = Path(folder), world or World(self.device)
        policy = policy or Policy(self.module.model, self.tokenizer, device=self.device)
        policy.save(folder, world=world)
        tensors = {name: _whole(value).detach().cpu() for name, value in self.module.score.state_dict().items()}

        def write() -> None:
            write_safetensors(folder / HEAD_FILE, tensors)
            atomic_write_text(folder / FACTS_FILE, json.dumps({"kind": "scalar head", "reads": self.reads}) + "\n")

        world.on_main(write)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device | None = None) -> RewardModel:
        """Load what `save` wrote, or a run's folder that holds it.

        Raises:
            UserError: there is no reward model.
        """
        from safetensors.torch import load_file

        from fionalm.training.distributed import pick_device

        path = Path(folder).expanduser()
        if not (path / HEAD_FILE).exists():
            path = path / MODEL_FOLDER
        if not (path / HEAD_FILE).exists():
            raise UserError(
                f"there is no reward model in {folder}: expected {HEAD_FILE}, as `fiona finetune reward` writes it"
            )
        model, tokenizer = load_model(path)
        module = ScalarHead(model)
        module.score.load_state_dict(load_file(path / HEAD_FILE))
        facts = json.loads((path / FACTS_FILE).read_text(encoding="utf-8")) if (path / FACTS_FILE).exists() else {}
        return cls(module.to(pick_device(device)), tokenizer, reads=facts.get("reads", "completion"))


def stacked(examples: Sequence[Example], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows [b, s], padded at the right, and their lengths [b]."""
    lengths = [example.length for example in examples]
    input_ids = torch.full((len(examples), max(lengths)), pad_id, dtype=torch.long)
    for row, (prompt, completion) in enumerate(examples):
        input_ids[row, : lengths[row]] = torch.tensor([*prompt, *completion])
    return input_ids.to(device), torch.tensor(lengths, device=device)


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
