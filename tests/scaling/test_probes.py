from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.scaling import attention_capture
from fionalm.scaling.alignment import AlignmentProbe
from fionalm.scaling.attention_capture import max_attention_logit
from fionalm.scaling.hooks import find_blocks
from fionalm.scaling.probes import StabilityProbe

from .probe_models import VOCAB, batch, count_hooks, decoder, loss_of, transformers_model


def measure(model: nn.Module, ids: Tensor, **options: Any) -> dict[str, float]:
    """One forward, no update."""
    probe = StabilityProbe(model, every=1, **options)
    probe.begin(0)
    model(ids)
    metrics = probe.end(0)
    assert metrics is not None
    return metrics


class OneAttention(nn.Module):
    """A block whose queries and keys are its input: the logits are known from the table."""

    def __init__(self, table: Tensor, written_out: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(table)
        self.blocks = nn.ModuleList([SelfProduct(written_out)])

    def forward(self, ids):
        return self.blocks[0](self.embed(ids))


class SelfProduct(nn.Module):
    def __init__(self, written_out: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.written_out = written_out

    def forward(self, x):
        x = (self.gain * x).unsqueeze(1)  # [batch, 1 head, seq, size]
        if not self.written_out:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True).squeeze(1)
        logits = x @ x.mT / math.sqrt(x.shape[-1])
        causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        return (logits.masked_fill(~causal, -math.inf).softmax(-1) @ x).squeeze(1)


@pytest.mark.parametrize("written_out", [False, True])
def test_hand_built_attention_has_the_known_maximum(written_out) -> None:
    # Products: 00 = 1, 11 = 4, 22 = 5, 12 = 4, 01 = 0, 02 = 1; each over sqrt(4).
    table = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [1.0, 2.0, 0, 0]])
    metrics = measure(OneAttention(table, written_out), torch.tensor([[0, 1, 2]]))
    assert metrics["probe/attn_logit_max/block0"] == pytest.approx(5 / 2)
    assert metrics["probe/attn_logit_max/all"] == pytest.approx(5 / 2)


def test_masked_positions_do_not_count() -> None:
    query = torch.tensor([[[1.0], [1.0], [2.0]]])
    key = torch.tensor([[[1.0], [5.0], [9.0]]])
    assert max_attention_logit(query, key, is_causal=True).item() == 18  # the last query sees all
    assert max_attention_logit(query[:, :2], key[:, :2], is_causal=True).item() == 5
    assert max_attention_logit(query[:, :1], key, is_causal=True).item() == 1
    mask = torch.tensor([[True, False, False], [True, False, False], [True, False, False]])
    assert max_attention_logit(query, key, attn_mask=mask).item() == 2
    added = torch.zeros(3, 3).masked_fill(~mask, torch.finfo(torch.float32).min)
    assert max_attention_logit(query, key, attn_mask=added).item() == 2
    assert max_attention_logit(query, key, attn_mask=torch.zeros(3, 3, dtype=torch.bool)).item() == -math.inf


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 9),
    st.sampled_from(["none", "causal", "bool", "float"]), st.sampled_from([None, 0.3]), st.integers(1, 60),
    st.integers(0, 999),
)  # fmt: skip
def test_maximum_against_all_logits(b, kv_heads, groups, queries, keys, masking, scale, chunk, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(b, kv_heads * groups, queries, 4, generator=generator)
    k = torch.randn(b, kv_heads, keys, 4, generator=generator)
    logits = q @ k.repeat_interleave(groups, 1).mT * (0.5 if scale is None else scale)
    mask = None
    if masking == "causal":
        logits = logits.masked_fill(~torch.ones(queries, keys, dtype=torch.bool).tril(), -math.inf)
    elif masking == "bool":
        mask = torch.rand(b, 1, 1, keys, generator=generator) < 0.7
        logits = logits.masked_fill(~mask, -math.inf)
    elif masking == "float":
        mask = torch.randn(queries, keys, generator=generator)
        logits = logits + mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_capture, "CHUNK", chunk)
        found = max_attention_logit(q, k, attn_mask=mask, is_causal=masking == "causal", scale=scale, enable_gqa=True)
    torch.testing.assert_close(found, logits.amax())


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"positions": "learned"}, {"qk_norm": True}])
def test_own_decoder_against_its_queries_and_keys(changes) -> None:
    model, ids = decoder(**changes), batch()
    inputs: dict[int, Tensor] = {}
    for index, block in enumerate(model.blocks):
        block.attn_norm.register_forward_hook(lambda *given, index=index: inputs.update({index: given[2]}))
    metrics = measure(model, ids)
    largest = []
    for index, block in enumerate(model.blocks):
        q, k = block.attn.qk(inputs[index])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        logits = (q @ k.mT).detach() / math.sqrt(q.shape[-1])
        allowed = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        largest.append(logits.masked_fill(~allowed, -math.inf).amax().item())
        assert metrics[f"probe/attn_logit_max/block{index}"] == pytest.approx(largest[-1], rel=1e-4)
    assert metrics["probe/attn_logit_max/all"] == pytest.approx(max(largest), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_transformers_fused_and_eager_attention_agree(family) -> None:
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for attention in ("sdpa", "eager"):
        model = transformers_model(family, attention).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "q_proj" in name or "attn" in name or "attention" in name:
                    parameter.mul_(5)
        for padded in (False, True):
            ids, mask = batch(), None
            if padded:
                mask = torch.ones_like(ids)
                mask[0, :4] = 0
            probe = StabilityProbe(model, every=1)
            probe.begin(0)
            model(ids, attention_mask=mask)
            found[padded].append(probe.end(0) or {})
    assert {"probe/attn_logit_max/block0", "probe/attn_logit_max/block1"} < found[False][0].keys()
    assert found[False][0]["probe/attn_logit_max/all"] > 0.5
    assert found[False][0] == pytest.approx(found[False][1], rel=1e-3, abs=1e-5)
    # The two attentions fill padded positions differently, which shows in all else but the attended logits.
    for name, value in found[True][0].items():
        if "attn" in name:
            assert found[True][1][name] == pytest.approx(value, rel=1e-3), name


def test_qk_norm_bounds_the_logit() -> None:
    largest = []
    for qk_norm in (False, True):
        model = decoder(qk_norm=qk_norm)
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight.mul_(1000)
        largest.append(measure(model, batch())["probe/attn_logit_max/all"])
    head_dim = 8
    assert largest[0] > 1e4
    # LayerNorm with gain 1 makes |q| = |k| = sqrt(head_dim), and rotation keeps it.
    assert 0 < largest[1] <= math.sqrt(head_dim) * (1 + 1e-4)


def test_log_z_of_known_logits() -> None:
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    metrics = measure(model, batch())
    assert metrics["probe/log_z_mean"] == pytest.approx(math.log(VOCAB))
    assert metrics["probe/log_z_mean_square"] == pytest.approx(math.log(VOCAB) ** 2)


def test_log_z_without_logits_is_that_of_the_head_before_the_update() -> None:
    ids = batch()
    for tied in (False, True):
        model = decoder(tie_embeddings=tied)
        expected = torch.logsumexp(model(ids).logits.detach(), dim=-1)
        probe = StabilityProbe(model, every=1)
        probe.begin(0)
        model(ids, head=lambda features, weight: (features @ weight.mT).square().mean())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        metrics = probe.end(0)
        assert metrics is not None
        assert metrics["probe/log_z_mean"] == pytest.approx(expected.mean().item(), rel=1e-5)
        assert metrics["probe/log_z_mean_square"] == pytest.approx(expected.square().mean().item(), rel=1e-5)


def test_log_z_takes_evenly_spaced_positions() -> None:
    model, ids = decoder(), batch()
    log_z = torch.logsumexp(model(ids).logits.detach(), dim=-1).flatten()
    sampled = measure(model, ids, max_tokens=3)["probe/log_z_mean"]
    assert sampled == pytest.approx(log_z[[0, 11, 23]].mean().item(), rel=1e-5)


def test_sizes_of_gradients_updates_parameters_and_activations() -> None:
    model, ids = decoder(), batch()
    for parameter in model.blocks[0].mlp_norm.parameters():
        parameter.requires_grad_(False)
    outputs: dict[int, Tensor] = {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *given, index=index: outputs.update({index: given[2].detach()}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    by_block, by_parameter = (
        StabilityProbe(model, every=1),
        StabilityProbe(model, every=1, detail="parameter"),
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    by_block.begin(0)
    by_parameter.begin(0)
    loss_of(model, ids).backward()
    by_block.after_backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    clipped = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    blocks, parameters = by_block.end(0), by_parameter.end(0)
    assert blocks is not None and parameters is not None
    after = dict(model.named_parameters())

    def size(tensors) -> float:
        return torch.cat([tensor.detach().flatten() for tensor in tensors]).double().square().mean().sqrt().item()

    def of_block(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
        return [tensor for name, tensor in tensors.items() if name.startswith(prefix)]

    for index in range(2):
        prefix = f"blocks.{index}."
        assert blocks[f"probe/grad_rms/block{index}"] == pytest.approx(size(of_block(gradients, prefix)), rel=1e-4)
        assert blocks[f"probe/param_rms/block{index}"] == pytest.approx(size(of_block(after, prefix)), rel=1e-4)
        assert blocks[f"probe/activation_rms/block{index}"] == pytest.approx(size([outputs[index]]), rel=1e-4)
        # SGD's update is the clipped gradient times the learning rate.
        update = 0.5 * size(of_block(clipped, prefix))
        assert blocks[f"probe/update_rms/block{index}"] == pytest.approx(update, rel=1e-3)
    assert blocks["probe/grad_rms/all"] == pytest.approx(size(gradients.values()), rel=1e-4)
    assert blocks["probe/param_rms/embed"] == pytest.approx(size([after["embed.weight"]]), rel=1e-4)
    # Without after_backward the gradients are those left at the end, clipped.
    assert parameters["probe/grad_rms/all"] == pytest.approx(size(clipped.values()), rel=1e-4)
    name = "blocks.1.attn.qkv.weight"
    assert parameters[f"probe/grad_rms/{name}"] == pytest.approx(size([clipped[name]]), rel=1e-4)
    change = size([after[name] - before[name]])
    assert parameters[f"probe/update_rms/{name}"] == pytest.approx(change, rel=1e-4)
    frozen = "blocks.0.mlp_norm.weight"
    assert f"probe/param_rms/{frozen}" in parameters and f"probe/update_rms/{frozen}" not in parameters


def test_gradients_far_below_epsilon_are_not_lost() -> None:
    model, ids = decoder(), batch()
    probe = StabilityProbe(model, every=1)
    probe.begin(0)
    (1e-15 * loss_of(model, ids)).backward()
    scaled = probe.end(0)
    assert scaled is not None
    model.zero_grad()
    probe.begin(0)
    loss_of(model, ids).backward()
    plain = probe.end(0)
    assert plain is not None
    assert scaled["probe/grad_rms/all"] == pytest.approx(1e-15 * plain["probe/grad_rms/all"], rel=1e-3)


def test_training_is_the_same_with_the_probe_on() -> None:
    finals = []
    for probed in (False, True):
        model, ids = transformers_model("gpt2"), batch(4)
        torch.manual_seed(1)  # dropout
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        probe = StabilityProbe(model, every=2)
        for step in range(4):
            if probed:
                assert probe.begin(step) == (step % 2 == 0)
            loss_of(model, ids).backward()
            optimizer.step()
            if probed:
                assert (probe.end(step) is None) == (step % 2 == 1)
            optimizer.zero_grad()
        finals.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])  # in one order the first has the larger logit
def test_last_micro_batch_counts(seeds) -> None:
    model = decoder()
    probe = StabilityProbe(model, every=1)
    probe.begin(0)
    for seed in seeds:
        loss_of(model, batch(seed=seed)).backward()
    metrics = probe.end(0)
    alone = measure(model, batch(seed=seeds[-1]))
    assert metrics is not None
    for name in ("probe/attn_logit_max/block1", "probe/log_z_mean", "probe/activation_rms/block1"):
        assert metrics[name] == pytest.approx(alone[name], rel=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant) -> None:
    found = []
    for checkpointing in (False, True):
        model, ids = transformers_model("llama"), batch()
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        probe = StabilityProbe(model, every=1)
        probe.begin(0)
        loss_of(model, ids).backward()
        found.append(probe.end(0))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_no_hook_outlives_a_failed_step() -> None:
    model = decoder(max_seq_len=16)
    own = count_hooks(model)
    probe = StabilityProbe(model, every=1)
    probe.begin(0)
    assert count_hooks(model) > own
    model.blocks[1].attn.out.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(batch())
    assert not torch.overrides._get_current_function_mode_stack()
    probe.close()
    assert count_hooks(model) == own + 1
    assert probe.end(0) is None


def fail(*_: Any) -> None:
    raise RuntimeError("on purpose")


def test_compiled_model_is_not_compiled_again() -> None:
    model, ids = decoder(), batch()
    compiled: Any = torch.compile(model, backend="eager")
    probe = StabilityProbe(compiled, every=2)
    compiled(ids)
    metrics = None
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            probe.begin(step)
            compiled(ids)
            metrics = probe.end(step)
        assert metrics is not None and metrics == pytest.approx(measure(model, ids))
        assert "probe/grad_rms/block0" not in metrics  # no backward, no gradient


def test_attention_that_cannot_be_seen_is_said_once() -> None:
    model = nn.Sequential(nn.Embedding(VOCAB, 8), nn.ModuleDict({"x": nn.Linear(8, 8)})["x"])
    probe = StabilityProbe(model, every=1)
    probe.begin(0)
    model(batch())
    with pytest.warns(UserWarning, match="no attention logits seen"):
        metrics = probe.end(0)
    assert metrics is not None and not any("attn" in name for name in metrics)
    probe.begin(1)
    model(batch())
    assert probe.end(1)


def test_blocks_are_the_list_with_most_parameters() -> None:
    assert list(find_blocks(decoder())) == ["blocks.0", "blocks.1"]
    assert list(find_blocks(transformers_model("gpt2"))) == ["transformer.h.0", "transformer.h.1"]
    nested = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(9, 9)]))])
    model = nn.ModuleDict({"adapters": nn.ModuleList([nn.Linear(2, 2)] * 3), "layers": nested})
    assert list(find_blocks(model)) == ["layers.0"]
    assert find_blocks(nn.Linear(2, 2)) == {}


def test_sharded_model_gives_the_same_numbers(tmp_path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ids = batch()
    expected, found = {}, {}
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for sharded, into in ((False, expected), (True, found)):
            model: Any = decoder()
            if sharded:
                mesh = init_device_mesh("cpu", (1,))
                for block in model.blocks:
                    fully_shard(block, mesh=mesh)
                fully_shard(model, mesh=mesh)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            probes = [
                StabilityProbe(model, every=1),
                AlignmentProbe(model, every=1),
                AlignmentProbe(model, every=1, probe_batch=ids),
            ]
            for probe in probes:
                probe.begin(0)
            model(ids, head=lambda features, weight: (features @ weight.mT).square().mean()).backward()
            optimizer.step()
            for probe in probes:
                into |= probe.end(0) or {}
            assert all(hasattr(parameter, "full_tensor") == sharded for parameter in model.parameters())
    finally:
        dist.destroy_process_group()
    assert found == pytest.approx(expected, rel=1e-3)
    assert {"probe/log_z_mean", "alignment/u/blocks.1.mlp.up", "probe/attn_logit_max/all"} < found.keys()


def test_bad_input() -> None:
    with pytest.raises(UserError, match="every=-1"):
        StabilityProbe(decoder(), every=-1)
    with pytest.raises(UserError, match="did you mean 'block'"):
        StabilityProbe(decoder(), detail="blocks")  # pyright: ignore[reportArgumentType]
