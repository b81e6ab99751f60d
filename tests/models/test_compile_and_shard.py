from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import linear_cross_entropy

pytestmark = [
    # Torch's own while it imports its compiler, and one that it hides unless warnings are errors.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

CONFIG = DecoderConfig(vocab_size=31, d_model=12, n_layers=4, n_heads=3, n_kv_heads=1, qk_norm=True, mlp="silu_gated")


@pytest.fixture
def model():
    torch.compiler.reset()
    yield Decoder(CONFIG, torch.Generator().manual_seed(0))
    torch.compiler.reset()


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(31, (2, 10), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def loss_and_grads(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    inputs, targets = batch()
    loss, _ = model(inputs, head=partial(linear_cross_entropy, targets=targets))
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), {name: getattr(g, "full_tensor", lambda g=g: g)() for name, g in grads.items()}


def test_logits_compile_into_one_graph(model: Decoder) -> None:
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch()[0]).logits, model(batch()[0]).logits)


def test_compiled_model_trains_with_the_chunked_head(model: Decoder) -> None:
    expected = loss_and_grads(copy.deepcopy(model))
    model.compile(backend="aot_eager")
    torch.testing.assert_close(loss_and_grads(model), expected)


def test_blocks_share_one_compilation(model: Decoder) -> None:
    expected = loss_and_grads(copy.deepcopy(model))
    names = set(model.state_dict())
    counter = CompileCounter()
    assert model.compile_blocks(backend=counter) is model
    torch.testing.assert_close(loss_and_grads(model), expected)
    assert counter.frame_count == 1
    assert set(model.state_dict()) == names


@pytest.mark.slow
def test_inductor_computes_the_same(model: Decoder) -> None:
    expected = loss_and_grads(copy.deepcopy(model))
    torch.testing.assert_close(loss_and_grads(model.compile_blocks()), expected, rtol=1e-4, atol=1e-5)


def test_fsdp2_shards_block_by_block(model: Decoder, tmp_path: Path) -> None:
    from torch import distributed as dist
    from torch.distributed.fsdp import fully_shard

    expected = loss_and_grads(copy.deepcopy(model))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        torch.testing.assert_close(loss_and_grads(model), expected)
        model.zero_grad()
        model.compile_blocks(backend="aot_eager")
        torch.testing.assert_close(loss_and_grads(model), expected)
    finally:
        dist.destroy_process_group()
