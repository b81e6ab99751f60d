from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.sampling import Completion, EngineSampler, GenerateSampler, SamplingParams

TOKENIZER = character_tokenizer("abcdefgh")
SHAPE: dict[str, Any] = {"vocab_size": 9, "d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 32}
CONFIG = DecoderConfig(**SHAPE, norm="rmsnorm", mlp="silu_gated")


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("llama")
    Decoder(CONFIG, torch.Generator().manual_seed(0)).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_prompts_samples_are_reproducible_and_the_global_generator_is_kept(peer: Any) -> None:
    sampler = GenerateSampler(peer, TOKENIZER)
    params = SamplingParams(n=4, max_tokens=12, seed=5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    told: list[tuple[int, int]] = []
    first = sampler.sample(["ab", "c"], params, on_completion=lambda i, j, _: told.append((i, j)))
    assert torch.rand(1) == expected
    assert sampler.sample(["ab", "c"], params) == first
    assert told == [(i, j) for i in range(2) for j in range(4)]
    assert sampler.sample(["ab", "c"], SamplingParams(n=4, max_tokens=12, seed=6)) != first


def test_completions_are_cut_as_the_engines_are(peer: Any) -> None:
    """Ends, texts and log-probabilities of a sample are what the engine says of the same tokens."""
    params = SamplingParams(n=20, max_tokens=40, stop_token_ids=(5,), top_k=6, top_p=0.95, min_p=0.01)
    engine = EngineSampler(peer, TOKENIZER)
    completions = GenerateSampler(peer, TOKENIZER).sample(["ab"], params)[0]
    for completion, logps in zip(
        completions, engine.score(["ab"] * 20, [c.token_ids or () for c in completions]), strict=True
    ):
        ids = list(completion.token_ids or ())
        assert completion.logps == pytest.approx(logps, abs=1e-5)
        assert not {0, 5} & set(ids[:-1])
        assert completion.finish_reason == ("stop" if ids[-1] in (0, 5) else "length")
        assert len(ids) == 30 or completion.finish_reason == "stop"
    assert {completion.finish_reason for completion in completions} >= {"stop"}


@pytest.mark.parametrize("plain", [True, False])
def test_stop_strings(peer: Any, plain: bool) -> None:
    tokenizer: Any = TOKENIZER
    if not plain:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, eos_token="<|endoftext|>")
    params = SamplingParams(temperature=0, max_tokens=25, stop=("aa", "gh"))
    expected = EngineSampler(peer, tokenizer).sample(["ab", "ff", "cg"], params)
    found: list[list[Completion]] = GenerateSampler(peer, tokenizer).sample(["ab", "ff", "cg"], params)
    assert [[c.text for c in row] for row in found] == [[c.text for c in row] for row in expected]
    assert [[c.token_ids for c in row] for row in found] == [[c.token_ids for c in row] for row in expected]


def test_the_own_decoder_has_no_generate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a Decoder has no `generate`"):
        GenerateSampler(Decoder(CONFIG), TOKENIZER)


def test_a_prompt_that_does_not_fit(peer: Any) -> None:
    with pytest.raises(UserError, match=r"prompts\[1\] has 32 tokens"):
        GenerateSampler(peer, TOKENIZER).sample(["a", "a" * 32], SamplingParams())
