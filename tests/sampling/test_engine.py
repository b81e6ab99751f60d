from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig, load_model
from fionalm.sampling import Completion, EngineSampler, GenerateSampler, SamplingParams
from fionalm.sampling.choice import token_weights

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 ."
TOKENIZER = character_tokenizer(ALPHABET)
VOCAB = 39
PROMPTS = ["abc", "hello world", "a", "zzzzz 12", "a longer one, in part unknown"[:20]]
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "silu_gated", "n_kv_heads": 2}
SMALL: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "opt": {
        **SMALL,
        "num_hidden_layers": 2,
        "ffn_dim": 64,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
    },
    # Five of six layers see 8 tokens.
    "gemma3_text": {
        **SMALL,
        "num_hidden_layers": 7,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "sliding_window": 8,
    },
    # A recurrent state, and no keys.
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def decoder(seed: int = 0, scale: float = 1.0, **fields: Any) -> Decoder:
    shape: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
    model = Decoder(DecoderConfig(**{**shape, **LLAMA, **fields}), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


def family(name: str, folder: Path) -> Any:
    (folder / "model.json").write_text(json.dumps({"model_type": name, "vocab_size": VOCAB, **FAMILIES[name]}))
    return load_model(folder / "model.json")[0]


def as_llama(model: Decoder, folder: Path) -> Any:
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def tokens(completions: list[list[Completion]]) -> list[list[tuple[int, ...] | None]]:
    return [[completion.token_ids for completion in row] for row in completions]


def near(a: Completion, b: Completion, tolerance: float = 1e-5) -> bool:
    pairs = zip(a.logps or (), b.logps or (), strict=True)
    return (a.text, a.finish_reason, a.token_ids) == (b.text, b.finish_reason, b.token_ids) and all(
        abs(x - y) < tolerance for x, y in pairs
    )


GREEDY = SamplingParams(temperature=0, max_tokens=30, stop=("zz",))


def test_greedy_is_what_generate_gives_the_same_weights(tmp_path: Path) -> None:
    own = decoder()
    peer = as_llama(own, tmp_path)
    expected = GenerateSampler(peer, TOKENIZER).sample(PROMPTS, GREEDY)
    for model in (own, peer):
        found = EngineSampler(model, TOKENIZER).sample(PROMPTS, GREEDY)
        assert all(near(a[0], b[0]) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_other_architectures(name: str, tmp_path: Path) -> None:
    """Greedy equals generate's; samples do not depend on the batch; log-probabilities are the full forward's."""
    model = family(name, tmp_path)
    sampler = EngineSampler(model, TOKENIZER, context=64)
    greedy = sampler.sample(PROMPTS, GREEDY)
    expected = GenerateSampler(model, TOKENIZER).sample(PROMPTS, GREEDY)
    assert all(near(a[0], b[0]) for a, b in zip(greedy, expected, strict=True))
    params = SamplingParams(n=3, max_tokens=20)
    drawn = sampler.sample(PROMPTS, params)
    assert tokens(EngineSampler(model, TOKENIZER, max_batch=4, context=64).sample(PROMPTS, params)) == tokens(drawn)
    check_logps(sampler, drawn)


def check_logps(sampler: EngineSampler, drawn: list[list[Completion]], tolerance: float = 1e-5) -> None:
    prompts = [prompt for prompt, row in zip(PROMPTS, drawn, strict=True) for _ in row]
    flat = [completion for row in drawn for completion in row]
    scores = sampler.score(prompts, [completion.token_ids or () for completion in flat])
    for completion, logps in zip(flat, scores, strict=True):
        assert completion.logps is not None and len(logps) == len(completion.logps)
        assert max(abs(a - b) for a, b in zip(completion.logps, logps, strict=True)) < tolerance


@pytest.mark.parametrize("n", [2, 5], ids=["prompts copied", "prompts shared"])
@pytest.mark.parametrize("cut", [{}, {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.02}])
def test_a_sample_is_the_same_in_any_batch(n: int, cut: dict) -> None:
    model = decoder(scale=2)
    params = SamplingParams(n=n, max_tokens=30, stop=("ab", "q", "e."), seed=3, **cut)
    drawn = EngineSampler(model, TOKENIZER).sample(PROMPTS, params)
    assert len({completion for row in tokens(drawn) for completion in row}) > len(PROMPTS)
    lengths = {len(completion or ()) for row in tokens(drawn) for completion in row}
    assert len(lengths) > 3, "samples end at different times, so rows are compacted and refilled"
    for max_batch in (1, 3, 64):
        sampler = EngineSampler(model, TOKENIZER, max_batch=max_batch)
        assert tokens(sampler.sample(PROMPTS, params)) == tokens(drawn)
    check_logps(sampler, drawn)
    # In another order, and alone: a seed makes a sample.
    seeds = [[100 * index + i for i in range(n)] for index in range(len(PROMPTS))]
    seeded = sampler.sample(PROMPTS, params, seeds=seeds)
    backwards = sampler.sample(PROMPTS[::-1], params, seeds=[row[::-1] for row in seeds[::-1]])
    assert tokens([row[::-1] for row in backwards[::-1]]) == tokens(seeded)
    one = SamplingParams(**{**params.__dict__, "n": 1})
    assert sampler.sample([PROMPTS[1]], one, seeds=[[seeds[1][n - 1]]])[0][0].token_ids == seeded[1][n - 1].token_ids
    assert tokens(seeded) != tokens(drawn)


@pytest.mark.parametrize("cut", [{}, {"top_k": 3, "temperature": 1.5}, {"top_p": 0.7}, {"min_p": 0.3}])
def test_samples_follow_the_models_distribution(cut: dict) -> None:
    """All pairs of two drawn tokens, against their probabilities by enumeration: a chi-square test at 4 deviations."""
    tokenizer, count = character_tokenizer("abcdef"), 4000
    model = decoder(vocab_size=7, d_model=8, n_heads=2, scale=0.7, n_kv_heads=1)
    params = SamplingParams(n=count, max_tokens=2, seed=1, **cut)
    drawn = EngineSampler(model, tokenizer, max_batch=500).sample(["ab"], params)[0]
    prompt = TextTokenizer(tokenizer).encode_prompt("ab")

    def following(*ids: int) -> list[float]:
        with torch.no_grad():
            weights = token_weights(model(torch.tensor([[*prompt, *ids]])).logits[0, -1:], params)[0]
        return (weights / weights.sum()).tolist()

    first = following()
    expected: dict[tuple[int, ...], float] = {(0,): first[0]}  # end-of-sequence ends it
    for a, b in itertools.product(range(1, 7), range(7)):
        expected[a, b] = first[a] * following(a)[b]
    found = dict.fromkeys(expected, 0)
    for completion in drawn:
        found[completion.token_ids or ()] += 1
    assert all(found[ids] == 0 for ids, probability in expected.items() if probability == 0)
    # Rare outcomes together, as the test's approximation wants.
    common = [ids for ids, probability in expected.items() if probability * count >= 5]
    cells = [(found[ids], count * expected[ids]) for ids in common]
    rest = (count - sum(a for a, _ in cells), count - sum(b for _, b in cells))
    cells += [rest] if rest[1] >= 5 else []
    chi2 = sum((a - b) ** 2 / b for a, b in cells)
    freedom = len(cells) - 1
    assert freedom >= 3 and chi2 < freedom + 4 * (2 * freedom) ** 0.5


def test_ends() -> None:
    model = decoder(scale=2)
    sampler = EngineSampler(model, TOKENIZER, context=40)
    params = SamplingParams(n=30, max_tokens=50, stop_token_ids=(3, 7), stop=("aa", "b"))
    drawn = sampler.sample(["some", "prompt of text"], params)
    reasons = set()
    for row, length in zip(drawn, (4, 14), strict=True):
        for completion in row:
            ids = completion.token_ids
            assert ids is not None and not {0, 3, 7} & set(ids[:-1])
            whole = sampler.tokenizer.decode(ids)
            assert "aa" not in completion.text and "b" not in completion.text
            if ids[-1] in (0, 3, 7):
                reasons.add("token")
                assert completion.text == sampler.tokenizer.decode(ids[:-1]) and completion.finish_reason == "stop"
            elif completion.finish_reason == "stop":
                reasons.add("string")
                assert whole == completion.text + ("b" if whole.endswith("b") else "aa")
            else:
                reasons.add("length")
                assert len(ids) == 40 - length and whole == completion.text
    assert reasons == {"token", "string", "length"}


def test_the_models_own_end_tokens_end_too(tmp_path: Path) -> None:
    model = family("gpt2", tmp_path)
    model.generation_config.eos_token_id = [4, 5]
    for row in EngineSampler(model, TOKENIZER).sample(PROMPTS, SamplingParams(n=4, max_tokens=40)):
        for completion in row:
            assert not {4, 5} & set((completion.token_ids or ())[:-1])


def test_progress_is_shown_while_no_completion_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fionalm.progress.LOG_INTERVAL_SECONDS", 0.0)
    clock = itertools.count()
    monkeypatch.setattr("fionalm.sampling.engine.time.monotonic", lambda: float(next(clock)))
    EngineSampler(decoder(), TOKENIZER).sample(["a"], SamplingParams(max_tokens=9, temperature=0), quiet=False)
    assert "sampling: 0/1 completions" in capsys.readouterr().err


def test_nothing_is_sampled_from_no_prompts() -> None:
    assert EngineSampler(decoder(), TOKENIZER).sample([], SamplingParams()) == []


def test_completions_are_told_as_they_end(capsys: pytest.CaptureFixture[str]) -> None:
    told: dict[tuple[int, int], Completion] = {}
    left: list[int] = []

    def tell(prompt: int, sample: int, completion: Completion) -> None:
        assert (prompt, sample) not in told
        told[prompt, sample] = completion
        left.append(len(completion.token_ids or ()))
        # Whoever is told may compute with gradients.
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad

    sampler = EngineSampler(decoder(), TOKENIZER, max_batch=4)
    drawn = sampler.sample(PROMPTS, SamplingParams(n=3, max_tokens=30), on_completion=tell, quiet=False)
    assert {(i, j): completion for i, row in enumerate(drawn) for j, completion in enumerate(row)} == told
    assert left != sorted(left)
    printed = capsys.readouterr().err
    assert "15/15 completions" in printed and "tokens_per_second=" in printed


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        (["ok", "a" * 64], {}, r"prompts\[1\] has 64 tokens, and the context holds 64: expected at most 63"),
        ([""], {}, r"prompts\[0\] has no tokens"),
        ([[1, 2, 39]], {}, r"prompts\[0\] has token 39, and the model knows 39"),
        (["ok"], {"seeds": [[1, 2]]}, "expected 1 for each of 1 prompts"),
        ([[{"role": "user", "content": "hi"}]], {}, "no chat template"),
    ],
)
def test_mistakes(prompts: list, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EngineSampler(decoder(), TOKENIZER).sample(prompts, SamplingParams(), **options)


def test_mistakes_in_the_sampler_itself() -> None:
    with pytest.raises(UserError, match="at most the model's 64"):
        EngineSampler(decoder(), TOKENIZER, context=65)
    with pytest.raises(UserError, match="max_batch 0"):
        EngineSampler(decoder(), TOKENIZER, max_batch=0)
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    for temperature in (0, 1):
        with pytest.raises(UserError, match="not finite"):
            EngineSampler(model, TOKENIZER).sample(["a"], SamplingParams(temperature=temperature))


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = family("gpt2", tmp_path).train()  # which has dropout
    model.transformer.h[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    sampler = EngineSampler(model, TOKENIZER)
    drawn = sampler.sample(PROMPTS, SamplingParams(n=2))
    check_logps(sampler, drawn)
    assert {name: module.training for name, module in model.named_modules()} == before
    loss = model(torch.tensor([[1, 2]])).logits.sum()
    loss.backward()
    own = decoder()
    EngineSampler(own, TOKENIZER).sample(PROMPTS, SamplingParams(n=2))
    own(torch.tensor([[1, 2]])).logits.sum().backward()
    assert own.embed.weight.grad is not None and own.embed.weight.is_leaf and not own.embed.weight.is_inference()


def test_injected_lora_counts() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = decoder()
    plain = tokens(EngineSampler(model, TOKENIZER).sample(PROMPTS, SamplingParams(n=4)))
    injected = inject_adapter_in_model(
        LoraConfig(r=4, target_modules=["qkv", "out", "up", "down"], init_lora_weights=False), cast("Any", model)
    )
    sampler = EngineSampler(injected, TOKENIZER)
    drawn = sampler.sample(PROMPTS, SamplingParams(n=4))
    assert tokens(drawn) != plain
    check_logps(sampler, drawn)


def test_bfloat16() -> None:
    sampler = EngineSampler(decoder().bfloat16(), TOKENIZER)
    check_logps(sampler, sampler.sample(PROMPTS, SamplingParams(n=4)), tolerance=0.1)


def test_scores_of_texts_and_of_nothing() -> None:
    model = decoder()
    sampler = EngineSampler(model, TOKENIZER)
    ids, answer = sampler.tokenizer.encode_prompt("abc"), sampler.tokenizer.encode_completion("de", end=False)
    texts, empty = sampler.score(["abc", "abc"], ["de", ""])
    with torch.no_grad():
        logps = model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
    expected = [logps[len(ids) - 1 + i, token].item() for i, token in enumerate(answer)]
    assert texts == pytest.approx(expected, abs=1e-5) and empty == []
    assert sampler.score([], []) == []
    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        sampler.score(["a"], ["b", "c"])
    with pytest.raises(UserError, match=r"prompts\[0\] and its completion have 40 and 30 tokens"):
        sampler.score(["a" * 40], ["b" * 30])
    with pytest.raises(UserError, match=r"prompts\[0\] has no tokens"):
        sampler.score([""], ["b"])


def test_many_scores_fit_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = EngineSampler(decoder(), TOKENIZER)
    prompts = [ALPHABET[: 1 + i % 9] for i in range(40)]
    completions = [ALPHABET[i % 5 : i] for i in range(1, 38)] + ["", "ab", "abcdefgh"]
    whole = sampler.score(prompts, completions)
    monkeypatch.setattr("fionalm.sampling.scoring.TOKENS_AT_ONCE", 50)
    assert [pytest.approx(row, abs=1e-5) for row in sampler.score(prompts, completions)] == whole


def test_completions_that_differ_in_their_last_token_are_read_once() -> None:
    model = decoder()
    read: list[int] = []
    model.embed.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    sampler = EngineSampler(model, TOKENIZER)
    labels = sampler.score(["a prompt"] * 3 + ["more"], ["a", "b", "abc", "a"])
    assert read == [3 * 10] and [len(row) for row in labels] == [1, 1, 3, 1]
    assert labels == [
        pytest.approx(sampler.score([prompt], [text])[0], abs=1e-5)
        for prompt, text in zip(["a prompt"] * 3 + ["more"], ["a", "b", "abc", "a"], strict=True)
    ]
