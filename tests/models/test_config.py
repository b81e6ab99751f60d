from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig, RopeScaling, flops_per_token

ATEN = torch.ops.aten


@st.composite
def configs(draw) -> DecoderConfig:
    n_kv_heads, groups = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 3]))
    norm = draw(st.sampled_from(["layernorm", "rmsnorm"]))
    flag = st.sampled_from([None, False, True])
    return DecoderConfig(
        vocab_size=draw(st.integers(2, 40)),
        d_model=12,
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_kv_heads * groups,
        n_kv_heads=n_kv_heads,
        head_dim=draw(st.sampled_from([2, 4, 8])),
        d_ff=draw(st.sampled_from([None, 20])),
        max_seq_len=16,
        norm=norm,
        norm_bias=norm == "layernorm" and draw(st.booleans()),
        positions=draw(st.sampled_from(["rotary", "learned"])),
        rope_scaling=draw(st.sampled_from([None, RopeScaling("linear", 2.0), RopeScaling("llama3", 8.0)])),
        mlp=draw(st.sampled_from(["gelu", "silu_gated"])),
        qk_norm=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
        bias=draw(st.booleans()),
        attention_bias=draw(flag),
        qkv_bias=draw(flag),
    )


@settings(max_examples=50, deadline=None)
@given(configs())
def test_counts_match_the_model(config: DecoderConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    assert config.num_parameters() == sum(p.numel() for p in model.parameters())
    inner = [*model.blocks.parameters(), *model.norm.parameters()]
    assert config.num_parameters(embeddings=False) == sum(p.numel() for p in inner)
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert config.matmul_parameters() == matrices


@settings(max_examples=50, deadline=None)
@given(configs())
def test_round_trip_through_json(config: DecoderConfig) -> None:
    assert DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("mlp", ["gelu", "silu_gated"])
def test_flops_are_what_torch_counts(mlp) -> None:
    config = DecoderConfig(vocab_size=50, d_model=12, n_layers=2, n_heads=3, n_kv_heads=1, mlp=mlp)
    model = Decoder(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 7, dtype=torch.long)).logits.sum().backward()
    counted = counter.get_flop_counts()["Global"]
    assert counted[ATEN.mm] == 2 * 7 * 6 * config.matmul_parameters()
    # 4 products of s (s + 1) / 2 scores in forward and backward less the recomputed one: 6 L H (s + 1) a token.
    assert flops_per_token(config, 7) == 6 * config.matmul_parameters() + 6 * 2 * 12 * 8
    assert config.flops_per_token(7) == flops_per_token(config, 7)
    assert config.flops_per_token() == flops_per_token(config, config.max_seq_len)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"d_model": 100, "n_heads": 3}, "d_model 100 .* n_heads 3: .* nearest is 2"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads 4 .* n_kv_heads 3: .* nearest is 2"),
        ({"d_model": 12, "n_heads": 4}, "even head size, not 3"),
        ({"norm": "layer_norm"}, "unknown norm 'layer_norm': .* did you mean 'layernorm'"),
        ({"positions": "alibi"}, "unknown positions 'alibi': expected one of rotary, learned"),
        ({"mlp": "swiglu"}, "unknown mlp 'swiglu'"),
        ({"norm": "rmsnorm", "norm_bias": True}, "norm_bias"),
        ({"n_layers": 0}, "n_layers was 0: expected a whole number of at least 1"),
        ({"vocab_size": 1.5}, "vocab_size was 1.5"),
        ({"d_ff": -1}, "d_ff was -1"),
    ],
)
def test_impossible_shapes_are_refused(fields, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        DecoderConfig(**fields)


def test_unknown_field_and_scaling_are_named() -> None:
    with pytest.raises(UserError, match="'d_modle'.*did you mean 'd_model'"):
        DecoderConfig.from_dict({"d_modle": 3})
    with pytest.raises(UserError, match="unknown rope scaling 'yarn'"):
        RopeScaling("yarn")  # type: ignore[arg-type]


def test_derived_sizes_follow_a_replaced_width() -> None:
    config = dataclasses.replace(DecoderConfig(d_model=64, n_heads=2), d_model=128)
    assert (config.head_size, config.ffn_size, config.kv_heads) == (64, 512, 2)
    assert not config.has_qkv_bias and not config.has_out_bias
    assert dataclasses.replace(config, attention_bias=True).has_qkv_bias
