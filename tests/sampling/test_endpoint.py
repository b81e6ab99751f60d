"""`EndpointSampler` against the real server, and against one that misbehaves."""

from __future__ import annotations

import itertools
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.sampling import Budget, BudgetSpentError, EndpointConfig, EndpointSampler, SamplingParams
from fionalm.sampling.endpoint_reply import Position, choices_from_top

from .conftest import TEXT, Answer, Scripted, Served, text_reply

PROMPTS: list[Any] = ["once upon", "a small model", [{"role": "user", "content": "hello"}]]
Start = Callable[[Answer], Scripted]


def sampler_for(url: str, folder: Path | None = None, **options: Any) -> EndpointSampler:
    config = EndpointConfig(**{"cache": folder is not None, "backoff": 0.01, "retries": 2, **options})
    return EndpointSampler(url, "m" if "model" not in options else None, config, cache_folder=folder)


def one_each(url: str, **options: Any) -> EndpointSampler:
    """The server's sampler that asks as the engine draws: every completion alone, with its own seed."""
    config = EndpointConfig(samples_per_request=1, logprobs=True, token_ids=True, cache=False, **options)
    return EndpointSampler(url, "tiny", config)


def ok(_call: int, _path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    return 200, {}, text_reply(*(f" {body['seed']}-{i}" for i in range(body.get("n", 1))))


def test_an_endpoint_draws_what_the_engine_draws(served: Served) -> None:
    params = SamplingParams(n=3, max_tokens=12, temperature=0.9, top_k=30, min_p=0.01, stop=("e",))
    sampler, told = one_each(served.url), []
    found = sampler.sample(PROMPTS, params, on_completion=lambda *one: told.append((*one, threading.current_thread())))
    expected = served.sampler.sample(PROMPTS, params)
    for row, wanted in zip(found, expected, strict=True):
        for completion, reference in zip(row, wanted, strict=True):
            assert (completion.text, completion.token_ids) == (reference.text, reference.token_ids)
            assert completion.finish_reason == reference.finish_reason
            assert completion.logps == pytest.approx(reference.logps, abs=1e-4)
    assert sorted((prompt, sample) for prompt, sample, *_ in told) == list(itertools.product(range(3), range(3)))
    assert {thread for *_, thread in told} == {threading.current_thread()}
    assert sampler.usage.requests == 9
    drawn = sum(len(completion.token_ids or ()) for row in found for completion in row)
    assert sampler.usage.completion_tokens == drawn


def test_one_request_brings_all_completions_of_a_prompt(served: Served) -> None:
    sampler = EndpointSampler(served.url, config=EndpointConfig(cache=False))
    assert sampler.model == "tiny"
    found = sampler.sample(PROMPTS, SamplingParams(n=4, max_tokens=10))
    assert sampler.usage.requests == 3
    assert [len({completion.text for completion in row}) for row in found] == [4, 4, 4]


def test_strings_go_to_the_chat_if_asked(served: Served) -> None:
    params = SamplingParams(max_tokens=8)
    chat = one_each(served.url, chat=True).sample(["hello"], params)
    assert chat[0][0].token_ids == served.sampler.sample([PROMPTS[2]], params)[0][0].token_ids
    with pytest.raises(UserError, match="expected strings"):
        one_each(served.url, chat=False).sample(PROMPTS, params)


def test_the_cache_answers_again_for_nothing(scripted: Start, tmp_path: Path) -> None:
    endpoint = scripted(ok)
    params = SamplingParams(n=2)
    first = sampler_for(endpoint.url, tmp_path).sample(["a", "b"], params)
    assert len(endpoint.calls) == 2
    again = sampler_for(endpoint.url, tmp_path)
    assert again.sample(["a", "b"], params) == first
    assert len(endpoint.calls) == 2
    assert (again.usage.requests, again.usage.cached, again.usage.completion_tokens) == (0, 2, 0)
    assert again.sample(["a", "b"], SamplingParams(n=2, seed=1)) != first
    for file in tmp_path.glob("*/*.json"):
        file.write_text(file.read_text()[:50])
    assert again.sample(["a", "b"], params) == first
    assert len(endpoint.calls) == 6


def test_equal_requests_are_separate_draws_where_seeds_are_refused(scripted: Start, tmp_path: Path) -> None:
    def no_seeds(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        if "seed" in body:
            return 422, {}, {"error": {"message": "seed: extra inputs are not permitted"}}
        return 200, {}, text_reply(f"answer {call}")

    endpoint = scripted(no_seeds)
    sampler = sampler_for(endpoint.url, tmp_path, samples_per_request=1, concurrency=4)
    found = sampler.sample(["a"], SamplingParams(n=4))
    assert len({completion.text for completion in found[0]}) == 4
    assert sampler.usage.requests == 4


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses n", "ignores n"])
def test_where_n_is_not_known_requests_are_repeated(scripted: Start, refuses: bool) -> None:
    def no_n(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        if refuses and "n" in body:
            return 400, {}, {"error": {"message": "only one choice is supported", "param": "n"}}
        return 200, {}, text_reply(f" {body['seed']}")

    endpoint = scripted(no_n)
    found = sampler_for(endpoint.url).sample(["a", "b"], SamplingParams(n=3))
    assert [len({completion.text for completion in row}) for row in found] == [3, 3]


def test_max_tokens_is_renamed_where_it_must_be(scripted: Start) -> None:
    def modern(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        if "max_tokens" in body:
            said = "Unsupported parameter: use 'max_completion_tokens' instead."
            return 400, {}, {"error": {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "length"}
        return 200, {}, {"choices": [choice], "object": "chat.completion"}

    endpoint = scripted(modern)
    found = sampler_for(endpoint.url, concurrency=3).sample([PROMPTS[2]] * 3, SamplingParams(max_tokens=7))
    assert [(row[0].text, row[0].finish_reason) for row in found] == [("yes", "length")] * 3
    assert endpoint.calls[-1][1]["max_completion_tokens"] == 7


@pytest.mark.parametrize(
    ("failure", "wait"),
    [
        ((429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}), 0.9),
        ((429, {"retry-after-ms": "300"}, {"error": {"message": "slow down"}}), 0.29),
        ((500, {}, {"error": {"message": "oops"}}), 0.0),
        ((503, {}, "<html>busy</html>"), 0.0),
        ((200, {}, b'{"choices": [{"index": 0, "te'), 0.0),
        ((200, {"Content-Length": "5"}, '{"ch'), 0.0),
    ],
    ids=["429 in seconds", "429 in ms", "500", "503", "dies in the middle", "broken JSON"],
)
def test_failures_are_tried_again(scripted: Start, failure: Any, wait: float) -> None:
    endpoint = scripted(lambda call, path, body: failure if call in (0, 2) else ok(call, path, body))
    sampler = sampler_for(endpoint.url, concurrency=1)
    started = time.monotonic()
    found = sampler.sample(["a", "b", "c"], SamplingParams())
    assert time.monotonic() - started >= wait
    assert all(row[0].text for row in found)
    assert sampler.usage.retries == 2
    assert len(endpoint.calls) == 5


def test_a_rate_limit_holds_every_request(scripted: Start) -> None:
    at: list[float] = []

    def limited(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        at.append(time.monotonic())
        return (429, {"retry-after-ms": "400"}, {}) if call == 0 else ok(call, path, body)

    sampler_for(scripted(limited).url, concurrency=1).sample(list("abcdef"), SamplingParams())
    assert at[1] - at[0] >= 0.4


def test_a_refusal_ends_the_others_waiting(scripted: Start) -> None:
    def mixed(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        if body["prompt"] == "bad":
            time.sleep(0.3)
            return 400, {}, {"error": {"message": "no"}}
        return 429, {"Retry-After": "60"}, {}

    started = time.monotonic()
    with pytest.raises(UserError, match=r"refused prompts\[1\] with 400: no"):
        sampler_for(scripted(mixed).url).sample(["a", "bad", "c"], SamplingParams())
    assert time.monotonic() - started < 10


def test_an_endpoint_that_keeps_failing_is_given_up(scripted: Start, tmp_path: Path) -> None:
    endpoint = scripted(lambda call, path, body: ok(call, path, body) if call < 2 else (500, {}, {"message": "oops"}))
    told: list[str] = []
    sampler = sampler_for(endpoint.url, tmp_path, concurrency=1)
    with pytest.raises(UserError, match="failed 3 times.*in the cache"):
        sampler.sample(list("abcd"), SamplingParams(), on_completion=lambda p, s, one: told.append(one.text))
    assert len(told) == 2
    assert len(endpoint.calls) == 5
    endpoint.answer = ok
    assert len(sampler_for(endpoint.url, tmp_path).sample(list("abcd"), SamplingParams())) == 4
    assert len(endpoint.calls) == 7


@pytest.mark.parametrize(
    ("reply", "said", "calls"),
    [
        ((401, {}, {"error": {"message": "bad key"}}), "FIONA_API_KEY", 1),
        ((400, {}, {"error": {"message": "prompt too long"}}), r"refused prompts\[0\] with 400: prompt too long", 1),
        (
            (429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}),
            r"refused prompts\[0\] with 429: pay",
            1,
        ),
        ((429, {"Retry-After": "3600"}, {"error": {"message": "later"}}), "asks to wait 3600 s", 1),
        ((200, {}, {"hello": 1}), "no choices", 1),
        ((200, {"Content-Type": "text/html"}, "<html>"), "no choices", 1),
        ((200, {}, text_reply()), "without a completion", 1),
    ],
    ids=str,
)
def test_a_refusal_is_one_sentence(scripted: Start, reply: Any, said: str, calls: int) -> None:
    endpoint = scripted(lambda *_: reply)
    with pytest.raises(UserError, match=said):
        sampler_for(endpoint.url).sample(["a"], SamplingParams())
    assert len(endpoint.calls) == calls


def test_a_wrong_model_names_the_nearest(served: Served) -> None:
    with pytest.raises(UserError, match=r"no model 'tinny'.*did you mean 'tiny'\?"):
        EndpointSampler(served.url, "tinny", EndpointConfig(cache=False)).sample(["a"], SamplingParams())
    with pytest.raises(UserError, match=r"refused prompts\[1\] with 400.*context holds"):
        EndpointSampler(served.url, "tiny", EndpointConfig(cache=False)).sample(["a", "b " * 3000], SamplingParams())


def test_where_nothing_answers_it_says_so_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}/v1"
    started = time.monotonic()
    with pytest.raises(UserError, match="nothing answers at"):
        EndpointSampler(url, "m", EndpointConfig(cache=False)).sample(["a"], SamplingParams())
    with pytest.raises(UserError, match="nothing answers at"):
        EndpointSampler(url)
    assert time.monotonic() - started < 5
    with pytest.raises(UserError, match="is no endpoint"):
        EndpointSampler("localhost:8000")


def test_a_silent_endpoint_times_out(scripted: Start) -> None:
    released = threading.Event()

    def silent(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        released.wait(10)
        return ok(call, path, body)

    sampler = sampler_for(scripted(silent).url, timeout=0.2, retries=1)
    with pytest.raises(UserError, match=r"failed 2 times.*no answer within 0.2 s.*cache is off"):
        sampler.sample(["a"], SamplingParams())
    released.set()


def test_logprobs_that_are_not_returned_are_missed(scripted: Start) -> None:
    endpoint = scripted(ok)
    with pytest.raises(UserError, match="returned no log-probabilities"):
        sampler_for(endpoint.url, logprobs=True).sample(["a"], SamplingParams())
    with pytest.raises(UserError, match="returned no log-probabilities"):
        sampler_for(endpoint.url).choice_logps(["a"], ["(1)", "(2)"])


@pytest.mark.parametrize(
    ("limit", "drawn"),
    [
        ({"requests": 3}, 3),
        ({"tokens": 40}, 3),
        ({"money": 0.04, "prompt_price": 1000, "completion_price": 1000}, 3),
        ({"requests": 0}, 0),
    ],
    ids=str,
)
def test_a_budget_ends_the_run_and_a_larger_one_goes_on(
    scripted: Start, tmp_path: Path, limit: dict[str, Any], drawn: int
) -> None:
    endpoint = scripted(ok)
    sampler = sampler_for(endpoint.url, tmp_path, concurrency=1, budget=Budget(**limit))
    with pytest.raises(BudgetSpentError, match=f"is spent after {drawn} of 6 completions") as spent:
        sampler.sample(list("abcdef"), SamplingParams())
    assert sum(row[0] is not None for row in spent.value.completions) == drawn
    assert len(endpoint.calls) == drawn
    assert len(sampler_for(endpoint.url, tmp_path).sample(list("abcdef"), SamplingParams())) == 6
    assert len(endpoint.calls) == 6


def test_a_budget_of_requests_holds_under_concurrency(scripted: Start) -> None:
    endpoint = scripted(lambda *one: (time.sleep(0.02), ok(*one))[1])
    with pytest.raises(BudgetSpentError):
        sampler_for(endpoint.url, concurrency=8, budget=Budget(requests=5)).sample(["a"] * 20, SamplingParams())
    assert len(endpoint.calls) == 5


def test_a_budget_of_tokens_needs_their_number(scripted: Start) -> None:
    endpoint = scripted(lambda *_: (200, {}, text_reply("x", usage=None)))
    with pytest.raises(UserError, match="does not say how many tokens"):
        sampler_for(endpoint.url, budget=Budget(tokens=100)).sample(["a"], SamplingParams())
    with pytest.raises(UserError, match="without a price"):
        Budget(money=1.0)
    with pytest.raises(UserError, match="budget tokens -1"):
        Budget(tokens=-1)


def test_an_interrupt_keeps_what_was_paid(scripted: Start, tmp_path: Path) -> None:
    def interrupting(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        if call == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return ok(call, path, body)

    endpoint = scripted(interrupting)
    with pytest.raises(KeyboardInterrupt, match="3 of 6 answers are in the cache: the same command goes on"):
        sampler_for(endpoint.url, tmp_path, concurrency=1).sample(list("abcdef"), SamplingParams())
    endpoint.answer = ok
    assert len(sampler_for(endpoint.url, tmp_path).sample(list("abcdef"), SamplingParams())) == 6
    assert len(endpoint.calls) == 7


def test_openais_key_goes_to_openai_alone(scripted: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = scripted(ok)
    monkeypatch.setenv("OPENAI_API_KEY", "precious")
    sampler_for(endpoint.url).sample(["a"], SamplingParams())
    monkeypatch.setenv("FIONA_API_KEY", "mine")
    sampler_for(endpoint.url).sample(["a"], SamplingParams())
    monkeypatch.delenv("FIONA_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    sampler_for(endpoint.url).sample(["a"], SamplingParams())
    assert [one["authorization"] for one in endpoint.headers] == ["Bearer none", "Bearer mine", "Bearer precious"]


def test_choices_are_scored_as_the_engine_scores_them(served: Served) -> None:
    sampler = EndpointSampler(served.url, "tiny", EndpointConfig(cache=False))
    scored = 0
    for prompt in (TEXT[:length] for length in range(1, 16)):
        reply: Any = served.client.completions.create(
            model="tiny", prompt=prompt, max_tokens=1, temperature=0, logprobs=5
        )
        listed = [token for token in reply.choices[0].logprobs.top_logprobs[0] if token.isalnum()]
        choices = [one for one in listed if not any(other != one and other.startswith(one) for other in listed)]
        if len(choices) > 1:
            expected = [sum(logps) for logps in served.sampler.score([prompt] * len(choices), choices)]
            assert sampler.choice_logps([prompt], choices)[0] == pytest.approx(expected, abs=1e-3)
            scored += 1
    assert scored > 2
    assert sampler.choice_logps([PROMPTS[2], PROMPTS[2]], ["§§", "¶¶"]) == [[-math.inf, -math.inf]] * 2


weights = st.lists(st.floats(0.01, 1), min_size=8, max_size=8)


@given(weights, weights)
def test_choices_that_begin_alike_are_followed_to_where_they_part(first: list[float], second: list[float]) -> None:
    tokens = ["(", "1", "2", "(1", "(2)", "x", " ", ")"]
    first[0] = 2.0  # the greedy answer begins with what the choices share
    logps = [[math.log(one / sum(row)) for one in row] for row in (first, second)]
    top = [dict(zip(tokens, row, strict=True)) for row in logps]
    best = max(top[1], key=lambda token: top[1][token])
    positions = [Position("(", top[0]["("], top[0]), Position(best, top[1][best], top[1])]
    found = choices_from_top(positions, ["(1)", "(2)"])
    expected = [
        math.log(math.exp(top[0]["(1"]) + math.exp(top[0]["("] + top[1]["1"])),
        math.log(math.exp(top[0]["(2)"]) + math.exp(top[0]["("] + top[1]["2"])),
    ]
    assert found == pytest.approx(expected)


def test_a_choice_that_is_not_listed_gets_a_bound() -> None:
    positions = [Position("1", -0.1, {"1": -0.1, "x": -3.0})]
    assert choices_from_top(positions, ["1", "2"]) == [-0.1, -3.0]
    assert choices_from_top([Position("10", -0.1, {})], ["1", "2"]) == [-math.inf, -math.inf]
    assert choices_from_top([Position("1)", -0.1, {"2": -4.0})], ["1", "2"]) == [-0.1, -4.0]
    assert choices_from_top([], ["1", "2"]) == [-math.inf, -math.inf]
