"""Examples as tensors, and rows in groups of similar length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import make_policy

from fionalm.errors import UserError
from fionalm.posttraining import FinetuneConfig, LoraConfig, collate, encode_example, length_buckets
from fionalm.posttraining.batches import Example

lengths = st.lists(st.integers(1, 20), min_size=1, max_size=30)


@given(lengths=lengths, most=st.integers(1, 60), least=st.integers(1, 8))
def test_groups_hold_every_row_once_and_no_more_than_fits(lengths: list[int], most: int, least: int) -> None:
    groups = length_buckets(lengths, most, at_least=least)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) * max(lengths[i] for i in group) <= most or len(group) == 1 for group in groups)
    assert len(groups) >= min(least, len(lengths))
    # Sorted by length: padding in all is at most what one row of each length would be.
    assert [lengths[i] for group in groups for i in group] == sorted(lengths, reverse=True)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
def test_the_mask_marks_the_completions_tokens(sizes: list[tuple[int, int]]) -> None:
    examples = [Example(tuple(range(10, 10 + p)), tuple(range(50, 50 + c))) for p, c in sizes]
    batch = collate(examples, 0)
    for row, example in enumerate(examples):
        assert batch.input_ids[row].tolist()[: example.length] == [*example.prompt_ids, *example.completion_ids]
        assert batch.input_ids[row, 1:][batch.completion_mask[row]].tolist() == list(example.completion_ids)
        assert not batch.input_ids[row, example.length :].any()


def test_completions_end_and_messages_count_by_their_content() -> None:
    tokenizer = make_policy().tokenizer
    ended = encode_example(tokenizer, "ab>", "cd")
    assert ended.completion_ids[-1] == tokenizer.eos_id
    assert encode_example(tokenizer, "ab>", "cd", end=False).completion_ids == ended.completion_ids[:-1]
    assert encode_example(tokenizer, "ab>", [{"role": "assistant", "content": "cd"}]) == ended
    assert encode_example(tokenizer, list(ended.prompt_ids), "cd") == ended


def test_mistakes_name_the_row() -> None:
    tokenizer = make_policy().tokenizer
    with pytest.raises(UserError, match="^row 3: the completion was empty"):
        encode_example(tokenizer, "a", "", row=3)
    with pytest.raises(UserError, match="^the prompt was empty"):
        encode_example(tokenizer, "", "a")
    with pytest.raises(UserError, match=r"prompt's 2 tokens and the completion's 3 .* at most 4"):
        encode_example(tokenizer, "ab", "cd", context=4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 0, "batch_size was 0: expected a whole number of at least 1"),
        ("micro_batch_tokens", 2.5, "micro_batch_tokens was 2.5"),
        ("clip_norm", -1.0, "clip_norm is -1.0"),
        ("precision", "fp16", "did you mean 'bf16'|expected one of auto, fp32, bf16"),
        ("strategy", "fsdp", "did you mean 'fsdp2'"),
        ("lora_rank", -1, "lora_rank was -1"),
    ],
)
def test_configurations_are_checked(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FinetuneConfig(**{field: value})  # type: ignore[arg-type]


def test_adapters_are_a_part_of_the_configuration() -> None:
    assert FinetuneConfig().lora is None
    assert FinetuneConfig(lora_rank=4, lora_alpha=8.0).lora == LoraConfig(4, 8.0)
