import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import PackedLoader, evaluation_batches
from fionalm.data.permutation import permute
from fionalm.errors import UserError

SHAPES = {
    "n_tokens": st.integers(12, 400),
    "batch_size": st.integers(1, 9),
    "seq_len": st.integers(1, 11),
    "seed": st.integers(0, 2**31),
}


def windows_of(batches: torch.Tensor, seq_len: int) -> list[int]:
    """Return which window each row is, for tokens that count up from 0."""
    first = batches[:, 0]
    assert (batches == first[:, None] + torch.arange(seq_len + 1)).all()
    assert (first % seq_len == 0).all()
    return (first // seq_len).tolist()


@given(**SHAPES, epochs=st.integers(1, 3))
def test_each_epoch_serves_each_window_exactly_once(n_tokens, batch_size, seq_len, seed, epochs):
    loader = PackedLoader(np.arange(n_tokens), batch_size, seq_len, seed=seed)
    n_windows = (n_tokens - 1) // seq_len
    steps = -(-epochs * n_windows // batch_size)
    served = windows_of(torch.cat([loader.batch(step) for step in range(steps)]), seq_len)
    for epoch in range(epochs):
        assert sorted(served[epoch * n_windows : (epoch + 1) * n_windows]) == list(range(n_windows))


@given(**SHAPES, taken=st.integers(0, 30))
def test_a_resumed_loader_continues_where_the_first_stopped(n_tokens, batch_size, seq_len, seed, taken):
    tokens = np.arange(n_tokens, dtype=np.uint16)
    first = PackedLoader(tokens, batch_size, seq_len, seed=seed)
    for _ in range(taken):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = PackedLoader(tokens, batch_size, seq_len, seed=seed)
    resumed.load_state_dict(state)
    for step in range(taken, taken + 3):
        batch = next(first)
        assert torch.equal(batch, next(resumed))
        assert torch.equal(batch, PackedLoader(tokens, batch_size, seq_len, seed=seed).batch(step))


@given(
    rows=st.integers(1, 4),
    world_size=st.integers(1, 4),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 99),
)
def test_ranks_in_order_make_the_batch_of_one_process(rows, world_size, step, seed):
    tokens = np.arange(101)
    slices = [
        PackedLoader(tokens, rows * world_size, 7, seed=seed, rank=rank, world_size=world_size).batch(step)
        for rank in range(world_size)
    ]
    assert torch.equal(torch.cat(slices), PackedLoader(tokens, rows * world_size, 7, seed=seed).batch(step))


def test_batches_are_int64_whatever_the_tokens_are(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(65_000, 65_500, dtype=np.uint16))
    batch = PackedLoader(np.load(tmp_path / "tokens.npy", mmap_mode="r"), 4, 16).batch(0)
    assert batch.shape == (4, 17)
    assert batch.dtype == torch.int64
    assert batch.min() >= 65_000


def test_epochs_and_seeds_are_shuffled_differently():
    def order(seed, epoch):
        loader = PackedLoader(np.arange(101), 100, 1, seed=seed)
        return loader.batch(epoch)[:, 0].tolist()

    orders = {tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert tuple(range(100)) not in orders


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"batch_size": 8}, "batch_size"),
        ({"seq_len": 5}, "seq_len"),
        ({"seed": 1}, "seed"),
        ({"tokens": np.arange(99)}, "n_tokens"),
        ({"tokens": np.arange(100)[::-1]}, "tokens_hash"),
    ],
)
def test_a_state_of_another_configuration_is_refused(changed, name):
    given_here = {"tokens": np.arange(100), "batch_size": 4, "seq_len": 6, "seed": 0}
    state = PackedLoader(**given_here).state_dict()
    with pytest.raises(UserError, match=name):
        PackedLoader(**{**given_here, **changed}).load_state_dict(state)


def test_a_run_may_resume_on_another_number_of_processes():
    state = PackedLoader(np.arange(100), 4, 6).state_dict() | {"step": 5}
    loader = PackedLoader(np.arange(100), 4, 6, rank=1, world_size=2)
    loader.load_state_dict(state)
    assert torch.equal(next(loader), PackedLoader(np.arange(100), 4, 6).batch(5)[2:])


@pytest.mark.parametrize(
    ("n_tokens", "options"),
    [
        (6, {}),
        (0, {}),
        (100, {"world_size": 3}),
        (100, {"rank": 2, "world_size": 2}),
    ],
)
def test_what_cannot_be_served_is_a_user_error(n_tokens, options):
    with pytest.raises(UserError):
        PackedLoader(np.arange(n_tokens), 4, 6, **options)


@given(
    n_tokens=st.integers(8, 300),
    batch_size=st.integers(1, 6),
    count=st.integers(0, 8),
)
def test_evaluation_batches_never_repeat_a_window(n_tokens, batch_size, count):
    batches = evaluation_batches(np.arange(n_tokens), batch_size, 7, count)
    n_windows = (n_tokens - 1) // 7
    windows = [window for batch in batches for window in windows_of(batch, 7)]
    assert windows == sorted(set(windows))
    assert len(windows) == min(n_windows, count * batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_evaluation_batches_spread_over_the_tokens():
    (batch,) = evaluation_batches(np.arange(1001), 4, 10, 1)
    assert windows_of(batch, 10) == [0, 25, 50, 75]
    with pytest.raises(UserError, match="too few"):
        evaluation_batches(np.zeros(0, dtype=np.uint16), 4, 10, 1)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**9))
def test_permute_is_a_bijection(n, seed, epoch):
    images = permute(np.arange(n), n, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(images), np.arange(n))


@given(n=st.integers(10**6, 2**50), indices=st.sets(st.integers(0, 10**6 - 1), min_size=1, max_size=50))
def test_permute_of_a_huge_range_needs_no_list(n, indices):
    images = permute(np.array(sorted(indices)), n, seed=0, epoch=0)
    assert len(set(images.tolist())) == len(indices)
    assert images.min() >= 0
    assert images.max() < n


def test_permute_sends_every_index_everywhere_equally_often():
    n, epochs = 12, 3000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), permute(np.arange(n), n, seed=0, epoch=epoch)] += 1
    # Chi-square with (n - 1)^2 degrees of freedom: six standard deviations above its mean is far out.
    statistic = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert statistic < freedom + 6 * (2 * freedom) ** 0.5
