import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.report import Claim, count_verdicts, exact, measure, read_claims, write_claims
from fionalm.statistics import Interval, bootstrap

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
DIRECTIONS = st.sampled_from(["greater", "less", "within"])
RANK = {"contradicted": 0, "inconclusive": 1, "supported": 2}


def make(direction: Any = "greater", threshold: Any = 1.0, **fields: Any):
    if direction == "within" and not isinstance(threshold, tuple):
        threshold = abs(threshold)
    texts = {"id": "a-claim", "claim": "It grows.", "paper": "Figure 1: 2.4", "statistic": "a ratio"}
    return Claim(**{**texts, "direction": direction, "threshold": threshold, **fields})


def satisfies(claim: Any, value):
    if claim.direction == "greater":
        return value > claim.threshold
    if claim.direction == "less":
        return value < claim.threshold
    return -claim.threshold <= value <= claim.threshold


@st.composite
def intervals(draw):
    low, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    return Interval(draw(st.floats(low, high)), low, high)


@given(DIRECTIONS, NUMBERS, intervals(), st.floats(0, 1))
def test_a_verdict_holds_at_every_point_of_the_interval(direction, threshold, interval, share):
    claim = make(direction, threshold)
    verdict = measure(claim, interval).verdict
    point = min(max(interval.low + share * (interval.high - interval.low), interval.low), interval.high)
    bound: Any = claim.threshold
    if verdict == "supported":
        assert satisfies(claim, point)
    elif verdict == "contradicted":
        assert not satisfies(claim, point)
    elif direction == "within":
        assert satisfies(claim, interval.low) != satisfies(claim, interval.high) or (
            interval.low < -bound and interval.high > bound
        )
    else:
        assert interval.low <= threshold <= interval.high


@given(st.sampled_from(["greater", "less"]), NUMBERS, intervals(), st.floats(0, 1e3))
def test_moving_towards_support_never_lowers_the_verdict(direction, threshold, interval, distance):
    claim = make(direction, threshold)
    step = distance if direction == "greater" else -distance
    moved = Interval(interval.estimate + step, interval.low + step, interval.high + step)
    assert RANK[measure(claim, moved).verdict] >= RANK[measure(claim, interval).verdict]


@given(DIRECTIONS, NUMBERS, intervals(), st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_wider_interval_decides_nothing_that_the_narrower_one_did_not(direction, threshold, interval, down, up):
    claim = make(direction, threshold)
    wider = Interval(interval.estimate, interval.low - down, interval.high + up)
    assert measure(claim, wider).verdict in ("inconclusive", measure(claim, interval).verdict)


@given(NUMBERS, intervals())
def test_greater_and_less_mirror_each_other(threshold, interval):
    mirrored = Interval(-interval.estimate, -interval.high, -interval.low)
    assert measure(make("greater", threshold), interval).verdict == measure(make("less", -threshold), mirrored).verdict


@given(DIRECTIONS, NUMBERS, intervals(), NUMBERS)
def test_the_estimate_does_not_enter_the_verdict(direction, threshold, interval, estimate):
    claim = make(direction, threshold)
    other = measure(claim, replace(interval, estimate=estimate))
    assert other.verdict == measure(claim, interval).verdict
    outside = not interval.low <= estimate <= interval.high
    assert ("does not hold its own estimate" in other.reason) == (outside and other.verdict != "inconclusive")


@given(
    DIRECTIONS,
    NUMBERS,
    intervals(),
    st.sampled_from(["estimate", "low", "high"]),
    st.sampled_from([math.nan, math.inf]),
)
def test_numbers_that_are_not_finite_are_inconclusive(direction, threshold, interval, field, value):
    broken = replace(interval, **{field: -value if field == "low" else value})
    measured = measure(make(direction, threshold), broken)
    assert measured.verdict == "inconclusive" and measured.reason


def test_the_threshold_itself_supports_neither_side_but_a_bound_supports():
    assert measure(make("greater", 1.0), Interval(1.5, 1.0, 2.0)).verdict == "inconclusive"
    assert measure(make("less", 1.0), Interval(0.5, 0.0, 1.0)).verdict == "inconclusive"
    assert measure(make("within", 1.0), Interval(0.0, -1.0, 1.0)).verdict == "supported"
    assert measure(make("within", (2.0, 3.0)), Interval(2.5, 2.0, 3.0)).verdict == "supported"
    assert measure(make("within", (2.0, 3.0)), Interval(0.0, -2.5, 1.9)).verdict == "contradicted"


def test_one_seed_says_that_one_seed_gives_no_interval():
    measured = measure(make(), bootstrap(lambda values: values.mean(), [3.0]), n=1)
    assert (measured.verdict, measured.reason) == ("inconclusive", "no interval can be given from 1 seed")
    assert measured.counted == "1 seed"
    assert measure(make(samples="prompts"), Interval(2, math.nan, math.nan), n=40).reason.endswith("40 prompts")


def test_an_exact_claim_has_no_width():
    claim = make("within", 0.0, exact=True)
    assert measure(claim, exact(0.0)).verdict == "supported"
    assert measure(claim, exact(1e-9)).verdict == "contradicted"
    assert "exact value" in measure(claim, exact(1e-9)).reason
    assert measure(claim, exact(math.nan)).verdict == "inconclusive"
    with pytest.raises(ValueError, match="width"):
        measure(claim, Interval(0.0, 0.0, 0.1))


def test_criteria_read_as_words():
    assert make("greater", 1.5, unit="nats").criterion == "above 1.5 nats"
    assert make("less", -0.05).criterion == "below -0.05"
    assert make("within", 0.3).criterion == "between -0.3 and 0.3"
    assert make("within", 0.0).criterion == "exactly 0"


@pytest.mark.parametrize(
    ("direction", "threshold"),
    [("more", 1.0), ("greater", math.nan), ("less", (0.0, 1.0)), ("within", (1.0, 0.0)), ("within", math.inf),
     ("within", -1.0), ("within", (1.0, 2.0, 3.0))],
)  # fmt: skip
def test_a_claim_that_nothing_could_support_is_refused(direction, threshold):
    with pytest.raises(ValueError, match="a-claim"):
        Claim("a-claim", "c", "p", "s", direction, threshold)


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="order"):
        measure(make(), Interval(1.0, 2.0, 0.0))


@given(
    DIRECTIONS,
    NUMBERS,
    st.one_of(intervals(), st.just(Interval(1.5, math.nan, math.nan)), st.just(Interval(*[math.nan] * 3))),
    st.text(st.characters(), max_size=30),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.one_of(st.none(), NUMBERS),
)
def test_claims_survive_the_file(tmp_path_factory, direction, threshold, interval, text, n, paper_effect):
    folder = tmp_path_factory.mktemp("claims")
    claim = make(direction, threshold, claim=text, unit=text, paper_effect=paper_effect)
    measured = measure(claim, interval, detail=text, n=n)
    path = write_claims(folder, [measured])
    (entry,) = json.loads(path.read_bytes(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert {"id", "claim", "paper", "effect", "interval", "verdict"} <= set(entry)
    assert (entry["effect"] is None) == math.isnan(interval.estimate)
    (again,) = read_claims(folder)
    assert json.dumps(again.to_dict()) == json.dumps(entry)
    assert asdict(again.claim) == asdict(claim) and again.verdict == measured.verdict


def test_two_claims_cannot_share_an_id(tmp_path):
    measured = measure(make(), exact(2.0))
    with pytest.raises(ValueError, match="a-claim"):
        write_claims(tmp_path, [measured, measured])
    assert not (tmp_path / "claims.json").exists()


def test_a_verdict_changed_in_the_file_is_refused(tmp_path):
    path = write_claims(tmp_path, [measure(make(), Interval(0.5, 0.2, 0.9))])
    path.write_text(path.read_text().replace("contradicted", "supported"))
    with pytest.raises(UserError, match=r"'a-claim' says 'supported'.*'contradicted'"):
        read_claims(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[3]", '[{"id": "x"}]', "[", "\xff",
     '[{"id": "x", "interval": "no", "effect": 1, "verdict": "supported"}]',
     '[{"id": "x", "interval": [0, 1], "effect": [], "verdict": "supported"}]'],
)  # fmt: skip
def test_broken_files_are_user_errors(tmp_path, text):
    (tmp_path / "claims.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"claims\.json"):
        read_claims(tmp_path)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"has no claims\.json"):
        read_claims(tmp_path / "nowhere")


def test_counts_hold_all_three_verdicts():
    assert count_verdicts([measure(make(), exact(2.0))]) == {
        "supported": 1,
        "contradicted": 0,
        "inconclusive": 0,
    }
