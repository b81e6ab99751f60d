"""`build_app` and its loop, asked by the official client."""

from __future__ import annotations

import http.client
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from fionalm.models import Decoder
from fionalm.sampling import EngineSampler, SamplingParams, sample_seed
from fionalm.sampling.serving_replies import ready_text
from fionalm.sampling.stops import cut_at_stop

from .conftest import CONTEXT, Served, serving

PROMPT = "once upon a time"
CHAT: Any = [{"role": "user", "content": "hello"}]


def completion(served: Served, **body: Any) -> Any:
    extra = {name: body.pop(name) for name in ("top_k", "min_p", "stop_token_ids") if name in body}
    extra["return_token_ids"] = True
    return served.client.completions.create(**{"model": "tiny", "prompt": PROMPT, **body}, extra_body=extra)


def drawn_alone(served: Served, params: SamplingParams, seed: int, prompt: Any = PROMPT) -> Any:
    return served.sampler.sample([prompt], params, seeds=[[seed]])[0][0]


def test_models_are_listed(served: Served) -> None:
    client = served.client
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "fiona"
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.8},
        {"top_k": 3, "temperature": 1.5},
        {"min_p": 0.2},
        {"stop": ("e", " the")},
        {"stop_token_ids": (70, 71, 72, 73, 74, 75, 76, 77)},
    ],
    ids=str,
)
def test_a_completion_is_the_engines(served: Served, options: dict[str, Any]) -> None:
    for seed in (1, 2):
        expected = drawn_alone(served, SamplingParams(max_tokens=20, **options), seed)
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
        reply = completion(served, max_tokens=20, seed=seed, logprobs=1, **listed)
        choice = reply.choices[0]
        assert choice.text == expected.text
        assert tuple(choice.token_ids) == expected.token_ids
        assert choice.finish_reason == expected.finish_reason
        assert choice.logprobs.token_logprobs == pytest.approx(expected.logps, abs=1e-4)
        assert reply.usage.completion_tokens == len(expected.token_ids)


def test_requests_at_once_share_a_batch_and_change_nothing(served: Served) -> None:
    cases = [(seed, {"temperature": 0.5 + seed / 10, "max_tokens": 20 + 3 * seed}) for seed in range(8)]
    steps, rows = served.loop.steps, served.loop.rows
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda case: completion(served, seed=case[0], **case[1]), cases))
    mean_batch = (served.loop.rows - rows) / (served.loop.steps - steps)
    assert mean_batch > 1.5
    for (seed, options), reply in zip(cases, replies, strict=True):
        assert tuple(reply.choices[0].token_ids) == drawn_alone(served, SamplingParams(**options), seed).token_ids


def test_n_completions_differ_and_come_again(served: Served) -> None:
    first, again = (completion(served, n=4, seed=7, max_tokens=12) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts == [choice.text for choice in again.choices]
    assert texts[0] == completion(served, seed=7, max_tokens=12).choices[0].text
    tokens = sum(len(choice.token_ids) for choice in first.choices)
    prompt = len(served.sampler.tokenizer.encode_prompt(PROMPT))
    assert first.usage.completion_tokens == tokens
    assert first.usage.prompt_tokens == prompt
    assert first.usage.total_tokens == tokens + prompt


def test_more_completions_than_the_batch_holds(served_model: Decoder, served_tokenizer: Any) -> None:
    with serving(EngineSampler(served_model, served_tokenizer, max_batch=2)) as small:
        reply = completion(small, n=5, seed=3, max_tokens=8)
        for index, choice in enumerate(reply.choices):
            seed = 3 if index == 0 else sample_seed(3, "choice", index)
            assert tuple(choice.token_ids) == drawn_alone(small, SamplingParams(max_tokens=8), seed).token_ids


def test_without_a_seed_draws_differ(served: Served) -> None:
    assert len({completion(served, max_tokens=12).choices[0].text for _ in range(4)}) > 1


def test_prompts_may_be_lists_and_token_ids(served: Served) -> None:
    ids = served.sampler.tokenizer.encode_prompt(PROMPT)
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 6}
    text = completion(served, **options).choices[0].text
    assert completion(served, prompt=ids, **options).choices[0].text == text
    both = completion(served, prompt=[PROMPT, "hello"], **options)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == text
    assert completion(served, prompt=[ids, ids], n=2, **options).choices[3].text == text


def test_a_chat_is_the_rendered_prompt(served: Served) -> None:
    reply: Any = served.client.chat.completions.create(
        model="tiny", messages=CHAT, max_completion_tokens=10, seed=4, logprobs=True, top_logprobs=3
    )
    expected = drawn_alone(served, SamplingParams(max_tokens=10), 4, CHAT)
    message, tokens = reply.choices[0].message, reply.choices[0].logprobs.content
    assert (message.role, message.content) == ("assistant", expected.text)
    assert [token.logprob for token in tokens] == pytest.approx(expected.logps, abs=1e-4)
    for token in tokens:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert tops[0] >= token.logprob - 1e-4
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    again = served.client.chat.completions.create(model="tiny", messages=parts, max_tokens=10, seed=4)
    assert again.choices[0].message.content == expected.text


def logps_of(served: Served, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return served.sampler.model(torch.tensor([ids])).logits[0].log_softmax(-1)


def test_listed_logprobs_are_the_models(served: Served) -> None:
    reply = completion(served, max_tokens=3, temperature=0.0, logprobs=5)
    ids = served.sampler.tokenizer.encode_prompt(PROMPT)
    logprobs = reply.choices[0].logprobs
    full = logps_of(served, ids + reply.choices[0].token_ids)
    for place, token in enumerate(reply.choices[0].token_ids):
        row = full[len(ids) - 1 + place]
        expected = row.topk(5).values.tolist()
        listed = sorted(logprobs.top_logprobs[place].values(), reverse=True)
        # Tokens that are halves of a character share a name, and so an entry.
        assert listed[0] == pytest.approx(expected[0], abs=1e-4)
        assert all(min(abs(one - value) for value in expected) < 1e-4 for one in listed)
        assert logprobs.token_logprobs[place] == pytest.approx(row[token].item(), abs=1e-4)
    assert "".join(logprobs.tokens) == reply.choices[0].text
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:place])) for place in range(3)]


def test_echo_scores_the_prompt(served: Served) -> None:
    ids = served.sampler.tokenizer.encode_prompt(PROMPT)
    full = logps_of(served, ids)
    expected = [full[place - 1, ids[place]].item() for place in range(1, len(ids))]
    scored = completion(served, max_tokens=0, echo=True, logprobs=0).choices[0]
    assert scored.text == PROMPT
    assert scored.logprobs.token_logprobs[0] is None
    assert scored.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    longer = completion(served, max_tokens=4, seed=1, echo=True, logprobs=1).choices[0]
    assert longer.text.startswith(PROMPT)
    assert len(longer.logprobs.tokens) == len(ids) + 4
    assert completion(served, max_tokens=4, seed=1, echo=True).choices[0].text == longer.text


def test_a_stream_adds_up(served: Served) -> None:
    options: Any = {"model": "tiny", "messages": CHAT, "seed": 2, "max_tokens": 40, "logprobs": True, "n": 2}
    whole: Any = served.client.chat.completions.create(**options)
    usage: Any = {"include_usage": True}
    chunks: list[Any] = list(served.client.chat.completions.create(**options, stream=True, stream_options=usage))
    assert len(chunks) > 10
    assert chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    for index, choice in enumerate(whole.choices):
        news = [one for chunk in chunks for one in chunk.choices if one.index == index]
        assert "".join(one.delta.content or "" for one in news) == choice.message.content
        assert [one.finish_reason for one in news if one.finish_reason] == [choice.finish_reason]
        logps = [token.logprob for one in news for token in one.logprobs.content]
        assert logps == pytest.approx([token.logprob for token in choice.logprobs.content], abs=1e-4)


def test_a_stop_string_is_never_streamed(served: Served) -> None:
    text = completion(served, seed=11, max_tokens=60).choices[0].text
    stop = text[20:24]
    parts = served.client.completions.create(
        model="tiny", prompt=PROMPT, seed=11, max_tokens=60, stop=[stop, "\0never"], stream=True
    )
    told = [(part.choices[0].text, part.choices[0].finish_reason) for part in parts]
    assert "".join(part for part, _ in told) == text[: text.index(stop)]
    assert told[-1][1] == "stop"


@given(
    st.text(alphabet="abé☃", max_size=30),
    st.lists(st.text(alphabet="abé☃", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_what_is_told_of_a_growing_text_is_never_taken_back(text: str, stop: list[str], data: st.DataObject) -> None:
    final, stopped = cut_at_stop(text, stop)
    raw = text.encode()
    ends = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    told = ""
    for end in ends:
        grown, over = cut_at_stop(raw[:end].decode(errors="replace"), stop)
        if over:
            break
        ready = ready_text(grown, stop)
        assert ready.startswith(told)
        told = ready
    assert final.startswith(told)
    assert stopped or ready_text(text, []) == text


def test_a_client_that_hangs_up_frees_its_rows(served: Served) -> None:
    stream = served.client.completions.create(
        model="tiny", prompt=PROMPT, temperature=0, max_tokens=CONTEXT, n=3, stream=True
    )
    before = served.loop.steps
    next(iter(stream))
    assert served.loop.steps - before < CONTEXT - 100, "the first token came only with the last"
    stream.close()
    assert_idle_soon(served)
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": CONTEXT})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    while not served.loop.active:
        time.sleep(0.001)
    connection.close()
    assert_idle_soon(served)
    assert served.loop.steps - before < 1.5 * CONTEXT


def assert_idle_soon(served: Served) -> None:
    deadline = time.monotonic() + 20
    while served.loop.active and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not served.loop.active


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "other"}, 404, "expected 'tiny'"),
        ({"model": None}, 400, "model"),
        ({"prompt": ""}, 400, "no tokens"),
        ({"prompt": 7}, 400, "prompt: expected a string"),
        ({"prompt": [99999]}, 400, "token ids from 0"),
        ({"prompt": "ab " * CONTEXT}, 400, "context holds"),
        ({"temperature": -1}, 400, "temperature -1"),
        ({"temperature": "hot"}, 400, "expected a number"),
        ({"top_p": 0}, 400, "top_p 0"),
        ({"n": 0}, 400, "n 0"),
        ({"n": 1.5}, 400, "whole number"),
        ({"max_tokens": 0}, 400, "max_tokens 0"),
        ({"logprobs": 21}, 400, "at most 20"),
        ({"stop": [1]}, 400, "stop"),
        ({"stop": [""]}, 400, "stop string was empty"),
        ({"best_of": 3}, 400, "best_of"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"echo": True, "stream": True}, 400, "echo"),
        ({"stream": "yes"}, 400, "true or false"),
    ],
    ids=str,
)
def test_a_bad_request_is_refused(served: Served, body: dict[str, Any], status: int, said: str) -> None:
    reply, error = ask(served, "/completions", json.dumps({"model": "tiny", "prompt": PROMPT, **body}))
    assert reply == status, error
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages"),
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "type text"),
    ],
)
def test_bad_messages_are_refused(served: Served, messages: Any, said: str) -> None:
    reply, error = ask(served, "/chat/completions", json.dumps({"model": "tiny", "messages": messages}))
    assert reply == 400
    assert said in error["message"]


def test_what_is_no_request_is_refused(served: Served) -> None:
    assert ask(served, "/completions", "{")[0] == 400
    assert ask(served, "/completions", "[1]")[0] == 400
    assert ask(served, "/completions", "{}", kind="text/plain")[0] == 415
    assert ask(served, "/complitions", "{}")[0] == 404
    assert ask(served, "/completions", None)[0] == 405


def ask(served: Served, path: str, body: str | None, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
    place = urlsplit(served.url)
    connection = http.client.HTTPConnection(place.netloc)
    connection.request("GET" if body is None else "POST", place.path + path, body, {"Content-Type": kind})
    reply = connection.getresponse()
    said = json.loads(reply.read())
    connection.close()
    return reply.status, said["error"]


def test_a_key_is_asked_for(served_model: Decoder, served_tokenizer: Any) -> None:
    with serving(EngineSampler(served_model, served_tokenizer), api_key="secret") as locked:
        with pytest.raises(openai.AuthenticationError, match="Bearer"):
            locked.client.models.list()
        with pytest.raises(openai.AuthenticationError):
            completion(locked)
        with openai.OpenAI(base_url=locked.url, api_key="secret", max_retries=0) as client:
            assert client.completions.create(model="tiny", prompt=PROMPT, max_tokens=2).choices


def test_a_diverged_model_answers_with_an_error_and_goes_on(served_model: Decoder, served_tokenizer: Any) -> None:
    broken = Decoder(served_model.config)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with serving(EngineSampler(broken, served_tokenizer)) as sick:
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="not finite"):
                completion(sick)
        stream = sick.client.completions.create(model="tiny", prompt=PROMPT, stream=True)
        with pytest.raises(openai.APIError, match="not finite"):
            list(stream)


def test_a_transformers_model_is_served(served_tokenizer: Any) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
        "vocab_size": len(served_tokenizer),
    }
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    with serving(EngineSampler(model, served_tokenizer)) as gpt2:
        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(lambda seed: completion(gpt2, seed=seed, max_tokens=9), range(3)))
        for seed, reply in enumerate(replies):
            expected = drawn_alone(gpt2, SamplingParams(max_tokens=9), seed)
            assert tuple(reply.choices[0].token_ids) == expected.token_ids
