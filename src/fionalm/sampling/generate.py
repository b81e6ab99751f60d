"""Sampling by `transformers`' own `generate`: the reference that the engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fionalm.data.text_tokenizer import Prompt, TextTokenizer
from fionalm.errors import UserError, require
from fionalm.models.decoder import Decoder
from fionalm.progress import progress
from fionalm.sampling.inference import context_length, evaluating
from fionalm.sampling.stops import cut_at_stop
from fionalm.sampling.types import Completion, OnCompletion, SamplingParams, sample_seed


class GenerateSampler:
    """Calls `model.generate` once a prompt with `num_return_sequences`; its draws come from torch's global generator.

    That is seeded anew for each prompt from the prompt's seeds, so a prompt's samples together are reproducible, but
    not one sample alone; the generator's state is as before afterwards.

    Raises:
        UserError: the own `Decoder`, which has no `generate`.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        if not hasattr(model, "generate") or isinstance(model, Decoder):
            raise UserError(
                f"a {type(model).__name__} has no `generate`: expected a causal language model of transformers; "
                "for the own decoder use EngineSampler"
            )
        self.model: Any = model
        self.tokenizer = TextTokenizer(tokenizer)
        self._wrapped = self.tokenizer.tokenizer
        if hasattr(self._wrapped, "token_to_id"):  # a plain one, which `generate` cannot find stop strings with
            transformers = require("transformers", "hub")
            self._wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=self._wrapped)

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Return `params.n` completions of each prompt; see `Sampler.sample`."""
        done = []
        with (
            evaluating(self.model),
            torch.random.fork_rng(),
            progress(len(prompts), "sampling with generate", "prompts", quiet=quiet) as bar,
        ):
            for index, prompt in enumerate(prompts):
                own = [sample_seed(params.seed, index, i) for i in range(params.n)] if seeds is None else seeds[index]
                torch.manual_seed(sample_seed(0, "/".join(map(str, own)), 0))
                done.append(self._sample_prompt(index, self.tokenizer.encode_prompt(prompt), params))
                bar.advance()
                for sample, completion in enumerate(done[-1]):
                    if on_completion is not None:
                        on_completion(index, sample, completion)
        return done

    def _sample_prompt(self, index: int, ids: list[int], params: SamplingParams) -> list[Completion]:
        context = context_length(self.model)
        if not ids or (context is not None and len(ids) >= context):
            raise UserError(f"prompts[{index}] has {len(ids)} tokens: expected at least 1 and fewer than {context}")
        limit = params.max_tokens if context is None else min(params.max_tokens, context - len(ids))
        ends = self._ends(params)
        tokens = torch.tensor([ids], device=self.model.device)
        stopping: dict[str, Any] = {}
        if params.stop:
            stopping = {"stop_strings": list(params.stop), "tokenizer": self._wrapped}
        drawing: dict[str, Any] = {"do_sample": False}
        if params.temperature > 0:
            drawing = {
                "do_sample": True,
                "temperature": params.temperature,
                "top_k": params.top_k or None,
                "top_p": params.top_p,
                "min_p": params.min_p or None,
            }
        out = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=limit,
            num_return_sequences=params.n if params.temperature > 0 else 1,
            eos_token_id=sorted(ends),
            pad_token_id=self.tokenizer.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
            **drawing,
            **stopping,
        )
        drawn = out.sequences[:, len(ids) :]
        logps = torch.stack(out.logits, 1).float().log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        rows = list(zip(drawn.tolist(), logps.tolist(), strict=True))
        completions = [self._completion(tokens, logps, ends, params) for tokens, logps in rows]
        return completions if params.temperature > 0 else completions * params.n

    def _completion(self, ids: list[int], logps: list[float], ends: set[int], params: SamplingParams) -> Completion:
        """Cut a row where it ended: `generate` pads it to the longest of its batch."""
        length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
        ended = ids[length - 1] in ends
        text = self.tokenizer.decode(ids[: length - ended])
        if params.stop:
            text, stopped = cut_at_stop(text, params.stop)
            if stopped:
                ended = True
                length = self._first_with(ids, params.stop)
        return Completion(text, "stop" if ended else "length", tuple(ids[:length]), tuple(logps[:length]))

    def _first_with(self, ids: list[int], stop: Sequence[str]) -> int:
        """Return how many tokens it took until a stop string was complete."""
        return next(
            length for length in range(1, len(ids) + 1) if cut_at_stop(self.tokenizer.decode(ids[:length]), stop)[1]
        )

    def _ends(self, params: SamplingParams) -> set[int]:
        own = getattr(self.model.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [own]
        return {self.tokenizer.eos_id, *params.stop_token_ids, *(token for token in own if token is not None)}
