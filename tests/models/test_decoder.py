from __future__ import annotations

import copy
import math
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.models import Attention, Decoder, DecoderConfig, RopeScaling
from fionalm.models.decoder import rotary_table, rotate
from fionalm.objectives import linear_cross_entropy

SMALL = DecoderConfig(vocab_size=31, d_model=12, n_layers=3, n_heads=3, head_dim=4, max_seq_len=32)
VARIANTS = {
    "paper": {},
    "paper with qk_norm": {"qk_norm": True},
    "llama": {"norm": "rmsnorm", "mlp": "silu_gated", "n_kv_heads": 1},
    "gpt": {"positions": "learned", "bias": True, "norm_bias": True, "tie_embeddings": True},
    "all": {"norm": "rmsnorm", "mlp": "silu_gated", "n_kv_heads": 1, "qk_norm": True, "qkv_bias": True},
}


def make(variant: str = "paper", seed: int = 0, **fields) -> Decoder:
    """Build a decoder whose every parameter matters: norms and biases are moved from their start."""
    config = DecoderConfig(**{**SMALL.to_dict(), **VARIANTS[variant], **fields})
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(config, generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def tokens(batch: int = 2, seq: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(31, (batch, seq), generator=torch.Generator().manual_seed(seed))


def slow_logits(model: Decoder, ids: list[int]) -> Tensor:
    """Compute one sequence's logits [seq, vocab] head by head and position by position."""
    c, e = model.config, model.config.head_size
    w = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def norm(x: Tensor, name: str) -> Tensor:
        if c.norm == "rmsnorm":
            return x / (x.square().mean() + c.norm_eps).sqrt() * w[f"{name}.weight"]
        x = (x - x.mean()) / (x.var(correction=0) + c.norm_eps).sqrt()
        return x * w[f"{name}.weight"] + w.get(f"{name}.bias", torch.zeros(()))

    def linear(x: Tensor, name: str) -> Tensor:
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", torch.zeros(()))

    def turn(x: Tensor, position: int) -> Tensor:
        out = x.clone()
        for i in range(e // 2):
            angle = position * c.rope_theta ** (-2 * i / e)
            a, b = x[i], x[i + e // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + e // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    stream = [w["embed.weight"][token] for token in ids]
    if c.positions == "learned":
        stream = [x + w["positions.weight"][t] for t, x in enumerate(stream)]
    for layer in range(c.n_layers):
        name = f"blocks.{layer}"
        heads = [linear(norm(x, f"{name}.attn_norm"), f"{name}.attn.qkv").split(e) for x in stream]

        def head_at(t: int, index: int, kind: str, name: str = name, heads: list = heads) -> Tensor:
            x = heads[t][index]
            x = norm(x, f"{name}.attn.{kind}_norm") if c.qk_norm else x
            return turn(x, t) if c.positions == "rotary" else x

        mixed = []
        for t in range(len(ids)):
            outs = []
            for h in range(c.n_heads):
                shared = h * c.kv_heads // c.n_heads
                scores = [head_at(t, h, "q") @ head_at(u, c.n_heads + shared, "k") / math.sqrt(e) for u in range(t + 1)]
                p = torch.stack(scores).softmax(0)
                outs.append(sum(p[u] * heads[u][c.n_heads + c.kv_heads + shared] for u in range(t + 1)))
            mixed.append(linear(torch.cat(outs), f"{name}.attn.out"))
        stream = [x + y for x, y in zip(stream, mixed, strict=True)]
        for t, x in enumerate(stream):
            hidden = linear(norm(x, f"{name}.mlp_norm"), f"{name}.mlp.up")
            if c.mlp == "silu_gated":
                gate, value = hidden.chunk(2)
                hidden = gate / (1 + (-gate).exp()) * value
            else:
                hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            stream[t] = x + linear(hidden, f"{name}.mlp.down")
    head = w.get("lm_head.weight", w["embed.weight"])
    return torch.stack([head @ norm(x, "norm") for x in stream])


@pytest.mark.parametrize("variant", VARIANTS)
def test_computes_the_definition(variant: str) -> None:
    model, ids = make(variant), tokens(batch=2, seq=5)
    logits = model(ids).logits
    for row, sequence in zip(logits, ids.tolist(), strict=True):
        torch.testing.assert_close(row, slow_logits(model, sequence), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_position_sees_a_later_one(variant: str) -> None:
    model, ids = make(variant), tokens()
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 31
    before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


@pytest.mark.parametrize("scaling", [None, RopeScaling("linear", 4.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 64)])
def test_rotated_products_depend_on_distance_only(scaling: RopeScaling | None) -> None:
    config = DecoderConfig(d_model=32, n_heads=2, rope_scaling=scaling)
    table = rotary_table(config, 200, torch.device("cpu"))
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).unsqueeze(1)
    turned_q = rotate(q.expand(1, 200, 1, 16), table)[0, :, 0]
    turned_k = rotate(k.expand(1, 200, 1, 16), table)[0, :, 0]
    products = turned_q @ turned_k.T
    torch.testing.assert_close(products[13:, 13:], products[:-13, :-13], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(200))
    assert products[0].std() > 0.1


def test_qk_are_what_attention_uses() -> None:
    attention = cast(Attention, make("all").get_submodule("blocks.1.attn"))
    x = torch.randn(2, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k = attention.qk(x)
    assert q.shape == (2, 3, 7, 4) and k.shape == (2, 1, 7, 4)
    v = attention.project(x)[2]
    scores = (q @ k.mT / math.sqrt(4)).masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)


def test_initial_weights_have_the_papers_spread() -> None:
    config = DecoderConfig(vocab_size=500, d_model=128, n_layers=2, norm_bias=True, bias=True, positions="learned")
    model = Decoder(config, torch.Generator().manual_seed(0))
    for embedding in (model.embed, model.positions):
        assert embedding.weight.std().item() == pytest.approx(128**-0.5, rel=0.02)
        assert embedding.weight.abs().max() > 3.5 * 128**-0.5
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 1 + 2 * 4
    for linear in linears:
        std = linear.in_features**-0.5
        assert linear.weight.std().item() == pytest.approx(std, rel=0.03)
        assert linear.weight.abs().max() < 2.3 * std
        assert linear.bias is None or not linear.bias.any()
    assert isinstance(model.norm, torch.nn.LayerNorm)
    assert (model.norm.weight == 1).all() and not model.norm.bias.any()
    assert model.lm_head.bias is None


def test_defaults_are_training_instabilities_model() -> None:
    model = Decoder(DecoderConfig(d_model=64, n_heads=4, n_layers=2, qk_norm=True))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.blocks[0].named_parameters()}
    assert shapes == {
        "attn_norm.weight": (64,),
        "attn.qkv.weight": (192, 64),
        "attn.out.weight": (64, 64),
        "attn.q_norm.weight": (16,),  # one head's: the heads share it
        "attn.k_norm.weight": (16,),
        "mlp_norm.weight": (64,),
        "mlp.up.weight": (256, 64),
        "mlp.down.weight": (64, 256),
    }
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 1 and {norm.eps for norm in norms} == {1e-6}
    assert model.lm_head.weight is not model.embed.weight and not hasattr(model, "positions")


def test_tied_head_is_the_embedding() -> None:
    model = Decoder(DecoderConfig(vocab_size=500, d_model=128, n_layers=1, tie_embeddings=True))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.embed.weight.std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert model.embed.weight.abs().max() > 3.5 * 128**-0.5


def test_generator_decides_the_weights() -> None:
    first, again = (Decoder(SMALL, torch.Generator().manual_seed(3)) for _ in range(2))
    other = Decoder(SMALL, torch.Generator().manual_seed(4))
    state = first.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in again.state_dict().items())
    assert not torch.equal(state["blocks.0.mlp.up.weight"], other.state_dict()["blocks.0.mlp.up.weight"])


def test_meta_device_then_initialised() -> None:
    with torch.device("meta"):
        model = Decoder(SMALL)
    assert model.device.type == "meta"
    model.to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(3))
    expected = Decoder(SMALL, torch.Generator().manual_seed(3))
    assert torch.equal(model(tokens()).logits, expected(tokens()).logits)


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="33 tokens: expected at most max_seq_len 32"):
        make()(tokens(seq=33))


def test_head_replaces_the_logits() -> None:
    model, ids = make("llama"), tokens()
    targets = tokens(seed=2)
    expected = F.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())
    expected_grads = torch.autograd.grad(expected, list(model.parameters()))
    loss, _ = model(ids, head=partial(linear_cross_entropy, targets=targets, chunk=4))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), expected_grads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_autocast_and_bf16_weights_are_near_float32(variant: str) -> None:
    model, ids = make(variant).float(), tokens()
    expected = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(ids).logits
    assert autocast.dtype == torch.bfloat16
    whole = copy.deepcopy(model).to(torch.bfloat16)(ids).logits
    for logits in (autocast, whole):
        assert (logits - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_continuations_in_one_row_are_as_in_two(variant: str) -> None:
    model, prompt, first, second = make(variant), tokens(1, 5), tokens(1, 4, 2), tokens(1, 3, 3)
    packed = torch.cat((prompt, first, second), dim=1)
    positions = torch.tensor([[*range(9), 5, 6, 7]])
    owner = torch.tensor([0] * 5 + [1] * 4 + [2] * 3)
    mask = torch.ones(12, 12).tril().bool() & ((owner[:, None] == owner) | (owner == 0))
    found = model(packed, positions=positions, mask=mask[None, None]).logits
    torch.testing.assert_close(found[:, :9], model(torch.cat((prompt, first), dim=1)).logits)
    torch.testing.assert_close(found[:, 9:], model(torch.cat((prompt, second), dim=1)).logits[:, 5:])
