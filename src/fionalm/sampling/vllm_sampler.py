"""Completions of vLLM in this process (extra: vllm), for models and machines that it supports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fionalm.data.text_tokenizer import Prompt, TextTokenizer
from fionalm.errors import UserError, require
from fionalm.progress import progress
from fionalm.sampling.types import Completion, OnCompletion, SamplingParams, sample_seed


class VllmSampler:
    """A `Sampler` over `vllm.LLM`.

    Every completion is a request of its own with its own seed, so that a sample does not depend on those beside it;
    vLLM's prefix cache keeps the prompt from being computed again.
    """

    def __init__(self, model: str, **options: Any) -> None:
        """Load a model.

        Args:
            model: folder or hub name.
            options: of `vllm.LLM`, such as `tensor_parallel_size` or `gpu_memory_utilization`.

        Raises:
            UserError: vLLM is not installed, or cannot load the model.
        """
        self._vllm = require("vllm", "vllm")
        try:
            self.llm = self._vllm.LLM(model=model, **{"enable_prefix_caching": True, **options})
        except (ValueError, OSError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"vLLM cannot load {model}: {first}") from error
        self._tokenizer = TextTokenizer(self.llm.get_tokenizer())

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Return `params.n` completions of each prompt; see `Sampler`.

        Raises:
            UserError: a prompt that vLLM refuses.
        """
        if seeds is None:
            seeds = [
                [sample_seed(params.seed, row, sample) for sample in range(params.n)] for row in range(len(prompts))
            ]
        tokens = [self._tokenizer.encode_prompt(prompt) for prompt in prompts]
        requests, wanted, places = [], [], []
        for row, chosen in enumerate(seeds):
            for sample, seed in enumerate(chosen):
                requests.append({"prompt_token_ids": tokens[row]})
                wanted.append(self._params(params, seed))
                places.append((row, sample))
        result: list[list[Completion]] = [[] for _ in prompts]
        with progress(len(requests), "sampling", "samples", quiet=quiet) as bar:
            outputs = self._generate(requests, wanted, quiet)
            for (row, sample), output in zip(places, outputs, strict=True):
                completion = _completion(output.outputs[0])
                result[row].append(completion)
                if on_completion is not None:
                    on_completion(row, sample, completion)
            bar.advance(len(requests))
        return result

    def choice_logps(
        self, prompts: Sequence[Prompt], choices: Sequence[str], *, quiet: bool = True
    ) -> list[list[float]]:
        """Return the log-probability (nats) of each of `choices` as what follows each prompt."""
        requests, starts = [], []
        for prompt in prompts:
            start = self._tokenizer.encode_prompt(prompt)
            for choice in choices:
                requests.append({"prompt_token_ids": start + self._tokenizer.encode_completion(choice, end=False)})
                starts.append(len(start))
        wanted = [self._vllm.SamplingParams(max_tokens=1, prompt_logprobs=0) for _ in requests]
        logps = []
        for output, start in zip(self._generate(requests, wanted, quiet), starts, strict=True):
            ids, listed = output.prompt_token_ids, output.prompt_logprobs
            logps.append(sum(listed[place][ids[place]].logprob for place in range(start, len(ids))))
        width = len(choices)
        return [logps[row * width : (row + 1) * width] for row in range(len(prompts))]

    def _params(self, params: SamplingParams, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            stop=list(params.stop),
            stop_token_ids=list(params.stop_token_ids),
            seed=seed,
            logprobs=0,
        )

    def _generate(self, requests: list[Any], params: list[Any], quiet: bool) -> list[Any]:
        try:
            return self.llm.generate(requests, params, use_tqdm=not quiet)
        except ValueError as error:
            raise UserError(f"vLLM refused a prompt: {error}") from error


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    # vLLM lists log-probabilities before temperature and truncation, as `Completion.logps` wants them.
    logps = tuple(listed[token].logprob for token, listed in zip(ids, output.logprobs or (), strict=True))
    finish = "length" if output.finish_reason == "length" else "stop"
    return Completion(output.text, finish, ids, logps)
