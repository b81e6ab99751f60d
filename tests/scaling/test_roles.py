"""Which kind each parameter of real architectures is, and what cannot be assigned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.scaling import layer_roles, parameterize, rebind_groups
from fionalm.scaling.roles import model_width

from .networks import Mlp, TinyDecoder

transformers = pytest.importorskip("transformers")


def kinds(model: nn.Module, roles: dict[str, str] | None = None) -> dict[str, str]:
    return {role.name: str(role.kind) for role in layer_roles(model, roles)}


def gpt2(width: int = 32, **options) -> Any:
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=width, n_layer=1, n_head=4, **options)
    return transformers.GPT2LMHeadModel(config)


def llama(width: int = 32, **options) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def test_llama() -> None:
    found = kinds(llama())
    assert found.pop("model.embed_tokens.weight") == "embedding"
    assert found.pop("lm_head.weight") == "readout"
    for name, kind in found.items():
        assert kind == ("vector" if "norm" in name else "hidden"), name
    assert len(found) == 7 + 3


def test_gpt2_with_untied_head_and_input_major_weights() -> None:
    model = gpt2(tie_word_embeddings=False)
    roles = {role.name: role for role in layer_roles(model)}
    assert roles["transformer.wte.weight"].kind == roles["transformer.wpe.weight"].kind == "embedding"
    assert roles["lm_head.weight"].kind == "readout"
    assert roles["transformer.h.0.attn.c_attn.weight"].kind == "hidden"
    assert roles["transformer.h.0.attn.c_attn.bias"].kind == "vector"
    assert roles["transformer.h.0.mlp.c_fc.weight"].fan_in == 32  # stored [in, out]
    assert roles["transformer.h.0.mlp.c_proj.weight"].fan_in == 128
    parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=32)
    state = model.state_dict()
    assert float(state["transformer.h.0.mlp.c_proj.weight"].std()) == pytest.approx(128**-0.5, rel=0.1)
    assert float(state["transformer.h.0.mlp.c_fc.weight"].std()) == pytest.approx(32**-0.5, rel=0.1)


def test_tied_embeddings_are_a_readout_and_positions_follow() -> None:
    model = gpt2(width=64)
    assert model.lm_head.weight is model.transformer.wte.weight
    found = kinds(model)
    assert found["transformer.wte.weight"] == found["transformer.wpe.weight"] == "readout"
    assert "lm_head.weight" not in found
    groups = parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=16)
    (readout,) = [g for g in groups if g["kind"] == "readout"]
    assert readout["lr"] == 1 / 4
    assert float(model.transformer.wte.weight.detach().std()) == pytest.approx(64**-0.5 / 2, rel=0.05)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert kinds(TinyDecoder(tied=True))["tokens.weight"] == "readout"


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_own_decoder(positions) -> None:
    model = Decoder(DecoderConfig(vocab_size=50, d_model=32, n_layers=1, positions=positions, qk_norm=True))
    found = kinds(model)
    expected = {
        "embed.weight": "embedding",
        "positions.weight": "embedding",
        "blocks.0.attn.qkv.weight": "hidden",
        "blocks.0.attn.out.weight": "hidden",
        "blocks.0.mlp.up.weight": "hidden",
        "blocks.0.mlp.down.weight": "hidden",
        "lm_head.weight": "readout",
    }
    if positions == "rotary":
        del expected["positions.weight"]
    assert {n: k for n, k in found.items() if k != "vector"} == expected
    shared = [role.name for role in layer_roles(model) if role.shared_vector]
    assert shared == ["blocks.0.attn.q_norm.weight", "blocks.0.attn.k_norm.weight"]


def test_decoder_at_its_base_width_starts_as_it_initialises_itself() -> None:
    model = Decoder(DecoderConfig(vocab_size=512, d_model=64, n_layers=1), generator=torch.Generator())
    before = {name: float(value.std()) for name, value in model.state_dict().items() if value.ndim > 1}
    parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=64)
    for name, std in before.items():
        assert float(model.state_dict()[name].std()) == pytest.approx(std, rel=0.05), name


def test_mlp_and_attention_of_torch() -> None:
    assert kinds(Mlp(16, depth=2)) == {
        "layers.0.weight": "embedding",
        "layers.1.weight": "hidden",
        "layers.2.weight": "hidden",
        "layers.3.weight": "readout",
    }
    encoder = nn.Sequential(
        nn.Linear(5, 16),
        nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True),
        nn.Linear(16, 3),
    )
    found = kinds(encoder)
    assert found["1.self_attn.in_proj_weight"] == found["1.self_attn.out_proj.weight"] == "hidden"
    assert found["1.self_attn.in_proj_bias"] == "vector"
    assert (found["0.weight"], found["2.weight"]) == ("embedding", "readout")


def test_classification_head_is_the_last_linear_layer() -> None:
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=4, num_labels=3)
    found = kinds(transformers.GPT2ForSequenceClassification(config))
    assert found["score.weight"] == "readout"
    assert found["transformer.wte.weight"] == "embedding"


def test_a_backbone_without_head_has_no_readout() -> None:
    assert "readout" not in kinds(gpt2().transformer).values()


def test_stacked_experts_are_refused_by_name_and_can_be_given_a_role() -> None:
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = transformers.MixtralForCausalLM(config)
    with pytest.raises(UserError, match=r"no layer kind for .*experts.*roles=\{'model.layers.0.mlp.") as caught:
        layer_roles(model)
    assert "experts.down_proj [2, 32, 48]" in str(caught.value)
    roles = {role.name: role for role in layer_roles(model, {"*.mlp.*": "hidden"})}
    down = roles["model.layers.0.mlp.experts.down_proj"]
    assert (down.kind, down.fan_in) == ("hidden", 48)


def test_convolutions_and_bare_matrices_are_refused_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 4)
            self.latent = nn.Parameter(torch.zeros(4, 16))
            self.mix = nn.Linear(16, 16)
            self.score = nn.Linear(16, 2)

    with pytest.raises(UserError, match=r"no layer kind for latent \[4, 16\], patch.weight \[16, 3, 4, 4\]"):
        layer_roles(Odd())
    model = Odd()
    roles = {"patch.weight": "embedding", "latent": "embedding", "mix.weight": "hidden"}
    assert kinds(model, roles) | roles == kinds(model, roles)
    parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=16, roles=roles)
    assert float(model.patch.weight.detach().std()) == pytest.approx(48**-0.5, rel=0.1)


def test_a_single_linear_layer_has_no_kind() -> None:
    with pytest.raises(UserError, match="no layer kind for weight"):
        layer_roles(nn.Linear(3, 2))
    with pytest.raises(UserError, match="no width found"):
        model_width(nn.LayerNorm(3))
    with pytest.raises(UserError, match=r"no layer kind for weight \[4, 3, 2\]"):
        layer_roles(nn.Conv1d(3, 4, 2))


def test_first_matching_glob_wins_and_frozen_parameters_are_left_out() -> None:
    model = TinyDecoder()
    found = kinds(model, {"up.weight": "readout", "*.weight": "hidden"})
    assert (found["up.weight"], found["down.weight"], found["up.bias"]) == ("readout", "hidden", "vector")
    model.tokens.weight.requires_grad_(False)
    before = model.tokens.weight.clone()
    groups = parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=8)
    assert all("tokens.weight" not in group["param_names"] for group in groups)
    assert torch.equal(model.tokens.weight, before)


def test_rebinding_to_another_model_needs_its_names() -> None:
    groups = parameterize(TinyDecoder(), "mup", optimizer="adam", base_lr=1.0, base_width=8)
    other = TinyDecoder()
    rebound = rebind_groups(groups, other)
    assert {id(p) for g in rebound for p in g["params"]} == {id(p) for p in other.parameters()}
    assert [g["lr"] for g in rebound] == [g["lr"] for g in groups]
    with pytest.raises(UserError, match=r"holds 'tokens.weight', which the model does not have"):
        rebind_groups(groups, Mlp(8))
