"""`VllmSampler` where vLLM cannot be installed: what it asks of the documented interface, answered by the engine."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fionalm.sampling import SamplingParams, VllmSampler
from fionalm.sampling.types import Completion

from .conftest import Served


@dataclass
class StandInParams:
    """The fields of `vllm.SamplingParams` that are used, with its defaults; any other is an error, as there."""

    n: int = 1
    max_tokens: int | None = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@pytest.fixture
def stand_in(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with vLLM's `LLM` in shape, which draws with the engine."""

    class LLM:
        def __init__(self, model: str, enable_prefix_caching: bool | None = None) -> None:
            if model == "broken":
                raise ValueError("no such architecture\nand much more")

        def get_tokenizer(self) -> Any:
            return served.sampler.tokenizer.tokenizer

        def generate(self, prompts: list[Any], sampling_params: list[StandInParams], use_tqdm: bool) -> list[Any]:
            return [
                answer(one["prompt_token_ids"], params) for one, params in zip(prompts, sampling_params, strict=True)
            ]

    def answer(ids: list[int], asked: StandInParams) -> Any:
        if asked.prompt_logprobs is not None:
            scores = served.sampler.score([ids[:1]], [ids[1:]])[0]
            listed = [{token: SimpleNamespace(logprob=logp)} for token, logp in zip(ids[1:], scores, strict=True)]
            return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=[None, *listed], outputs=[])
        names = ("n", "max_tokens", "temperature", "top_k", "top_p", "min_p")
        options: dict[str, Any] = {name: getattr(asked, name) for name in names}
        params = SamplingParams(**options, stop=tuple(asked.stop), stop_token_ids=tuple(asked.stop_token_ids))
        one = served.sampler.sample([ids], params, seeds=[[asked.seed or 0]])[0][0]
        assert one.token_ids is not None
        assert one.logps is not None
        pairs = zip(one.token_ids, one.logps, strict=True)
        logprobs = [{token: SimpleNamespace(logprob=logp)} for token, logp in pairs]
        output = SimpleNamespace(text=one.text, token_ids=list(one.token_ids), logprobs=logprobs)
        output.finish_reason = one.finish_reason
        return SimpleNamespace(prompt_token_ids=ids, outputs=[output])

    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, StandInParams
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_every_sample_has_its_own_seed(served: Served, stand_in: None) -> None:
    prompts: list[Any] = ["hello", [{"role": "user", "content": "once"}], [5, 6, 7]]
    params = SamplingParams(n=3, max_tokens=7, temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, stop=("e",))
    told: list[tuple[int, int, Completion]] = []
    found = VllmSampler("some/model").sample(prompts, params, on_completion=lambda *one: told.append(one))
    expected = served.sampler.sample(prompts, params)
    assert [[one.token_ids for one in row] for row in found] == [[one.token_ids for one in row] for row in expected]
    assert [[one.text for one in row] for row in found] == [[one.text for one in row] for row in expected]
    assert found[0][0].logps == pytest.approx(expected[0][0].logps, abs=1e-4)
    assert sorted(one[:2] for one in told) == [(row, sample) for row in range(3) for sample in range(3)]


def test_choices_are_scored_exactly(served: Served, stand_in: None) -> None:
    sampler = VllmSampler("some/model")
    found = sampler.choice_logps(["hello", "once"], ["(1)", "(2)"])
    for prompt, row in zip(["hello", "once"], found, strict=True):
        assert row == pytest.approx([sum(one) for one in served.sampler.score([prompt] * 2, ["(1)", "(2)"])], abs=1e-3)


def test_a_model_that_does_not_load_is_one_sentence(stand_in: None) -> None:
    with pytest.raises(Exception, match="vLLM cannot load broken: no such architecture$"):
        VllmSampler("broken")
