"""What a model of a knowledge graph makes up: objects drawn for (subject, predicate) pairs, and how many are right.

    generated = sample_objects(EngineSampler(model, tokenizer), corpus.tokens, split, pairs, temperatures=(0.0, 1.0))
    measure_hallucination(generated, split)

Hron et al. 2024 (arXiv 2408.07852, section 2): an object is hallucinated if the graph does not hold its triple.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fionalm.data.knowledge.graph import Pair, Triple, rank
from fionalm.data.knowledge.splits import VISIBILITIES, GraphSplit
from fionalm.data.knowledge.text import TripleTokenizer, triple_text
from fionalm.errors import UserError
from fionalm.sampling.types import Completion, Sampler, SamplingParams, sample_seed
from fionalm.statistics import Interval, bootstrap

Verdict = Literal["seen", "held_out", "hallucinated"]
SAMPLES = 16
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class GeneratedTriple:
    """A pair with the object that a model gave it, and whether that is right."""

    subject: str
    predicate: str
    object: str
    """As it was written; with its special tokens, if it has any before its end."""
    visibility: str
    """Of the pair: one of `VISIBILITIES`."""
    verdict: Verdict
    """`seen` in training, true but `held_out` from it, or `hallucinated`: not in the graph."""
    temperature: float
    sample: int
    finished: bool
    """Whether the model ended the object; one that it did not end is hallucinated."""
    logp: float | None
    """Log-probability (nats) of the object's tokens and its end, at temperature 1; None where a sampler gives none."""
    token_ids: tuple[int, ...] = ()

    @property
    def triple(self) -> Triple:
        """Subject, predicate and object."""
        return self.subject, self.predicate, self.object

    @property
    def text(self) -> str:
        """What a detector reads; see `triple_text`."""
        return triple_text(self.triple)

    @property
    def hallucinated(self) -> bool:
        """The label that detectors learn: 1 is hallucinated."""
        return self.verdict == "hallucinated"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def choose_pairs(split: GraphSplit, count: int, *, seed: int = 0) -> list[Pair]:
    """Return up to `count` pairs of each visibility, chosen by their hashes with the seed.

    Of two choices with one seed, the larger holds the smaller.

    Raises:
        UserError: a count below 1.
    """
    if count < 1:
        raise UserError(f"pairs {count}: expected at least 1 of each split")
    return [
        pair
        for _, pairs in split.visibilities()
        for pair in sorted(pairs, key=lambda pair: rank(pair, f"pairs/{seed}"))[:count]
    ]


def sample_objects(
    sampler: Sampler,
    tokens: TripleTokenizer,
    split: GraphSplit,
    pairs: Sequence[Pair],
    *,
    temperatures: Sequence[float] = (1.0,),
    samples: int = SAMPLES,
    max_tokens: int | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> list[GeneratedTriple]:
    """Draw objects for pairs and judge each.

    At temperature 0 all samples would be the same, so one is drawn. A sample's seed comes from `seed`, its pair, its
    temperature and its number, so what is drawn for a pair does not depend on which others are asked.

    Args:
        sampler: of the model; takes prompts as token ids.
        tokens: the model's tokenizer.
        split: says what is right and what was seen.
        pairs: of the graph.
        temperatures: each of which gives every pair `samples` objects.
        samples: objects of a pair.
        max_tokens: of an object and its end; None: as the longest true object of the graph needs.
        seed: of the draws.
        quiet: show no progress.

    Returns:
        [temperatures x pairs x samples] objects, in that order.

    Raises:
        UserError: a pair that the graph lacks, named with the nearest.
    """
    for pair in pairs:
        split.graph.objects(*pair)
    if max_tokens is None:
        names = tokens.encode_names(an_object for _, _, an_object in split.graph)
        max_tokens = 1 + max(map(len, names.values()))
    prompts = tokens.encode_pairs(pairs)
    generated = []
    for temperature in temperatures:
        count = 1 if temperature == 0 else samples
        seeds = [
            [sample_seed(seed, f"{pair[0]}\t{pair[1]}\t{temperature}", sample) for sample in range(count)]
            for pair in pairs
        ]
        params = SamplingParams(n=count, max_tokens=max_tokens, temperature=temperature, seed=seed)
        drawn = sampler.sample(prompts, params, seeds=seeds, quiet=quiet)
        for pair, completions in zip(pairs, drawn, strict=True):
            generated += [
                _judged(pair, completion, split, tokens, temperature, sample)
                for sample, completion in enumerate(completions)
            ]
    return generated


def _judged(
    pair: Pair, completion: Completion, split: GraphSplit, tokens: TripleTokenizer, temperature: float, sample: int
) -> GeneratedTriple:
    name = written(completion, tokens)
    finished = completion.finish_reason == "stop"
    triple = (*pair, name)
    verdict: Verdict = "hallucinated"
    if finished and triple in split.graph:
        verdict = "seen" if triple in split.train else "held_out"
    return GeneratedTriple(
        *triple,
        visibility=split.visibility[pair],
        verdict=verdict,
        temperature=temperature,
        sample=sample,
        finished=finished,
        logp=completion.logp,
        token_ids=completion.token_ids or (),
    )


def written(completion: Completion, tokens: TripleTokenizer) -> str:
    """Return the object's name; a mark within it is shown, for no name holds one."""
    special = {tokens.subject_id, tokens.predicate_id, tokens.object_id}
    if completion.token_ids and special.intersection(completion.token_ids):
        ids = [token for token in completion.token_ids if token != tokens.end_id]
        return tokens.tokenizer.decode(ids, skip_special_tokens=False).strip()
    return completion.text.strip()


@dataclass(frozen=True)
class Hallucination:
    """How right a model is about the pairs of one visibility, at one temperature.

    Every value is a mean over pairs, which are what the intervals resample.
    """

    visibility: str
    temperature: float
    pairs: int
    samples: int
    """Objects of a pair."""
    rate: Interval
    """Share of a pair's generated objects that are hallucinated."""
    precision: Interval
    """Share of them that are right: 1 - rate."""
    recall: Interval
    """Share of a pair's right objects that are among its generated ones."""
    held_out: Interval
    """Share of the generated objects that are right though training did not show them."""
    held_out_recall: Interval | None
    """Share of a pair's held-out objects that are among the generated ones; None where none are held out."""
    unfinished: float
    """Share of the generated objects that were cut off, which count as hallucinated."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; intervals as [estimate, low, high]."""

        def plain(value: Any) -> Any:
            return [value.estimate, value.low, value.high] if isinstance(value, Interval) else value

        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Hallucination:
        """Read `to_dict`'s values back."""

        def whole(value: Any) -> Any:
            return Interval(*(np.nan if one is None else one for one in value)) if isinstance(value, list) else value

        return cls(**{name: whole(value) for name, value in values.items()})


def measure_hallucination(
    generated: Iterable[GeneratedTriple],
    split: GraphSplit,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Hallucination]:
    """Return rate, precision and recall of every visibility and temperature, in that order.

    Args:
        generated: what `sample_objects` returned.
        split: what it was judged by.
        level: of the intervals, bootstrapped over pairs.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UserError: nothing was generated, or pairs of one temperature have different numbers of objects.
    """
    groups: dict[tuple[str, float], dict[Pair, list[GeneratedTriple]]] = {}
    for one in generated:
        pairs = groups.setdefault((one.visibility, one.temperature), {})
        pairs.setdefault((one.subject, one.predicate), []).append(one)
    if not groups:
        raise UserError("no objects were generated: expected at least one pair")
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed, "bounds": (0.0, 1.0)}
    keys = sorted(groups, key=lambda key: (VISIBILITIES.index(key[0]), key[1]))
    return [_measured(*key, groups[key], split, options) for key in keys]


def _measured(
    visibility: str,
    temperature: float,
    groups: dict[Pair, list[GeneratedTriple]],
    split: GraphSplit,
    options: dict[str, Any],
) -> Hallucination:
    counts = set(map(len, groups.values()))
    if len(counts) > 1:
        raise UserError(
            f"pairs have {min(counts)} to {max(counts)} objects at temperature {temperature}: expected as many of each"
        )
    (samples,) = counts
    table = np.array([_shares(pair, drawn, split) for pair, drawn in groups.items()])
    wrong, recall, unseen, unseen_recall = table.T
    known = ~np.isnan(unseen_recall)
    every = [one for drawn in groups.values() for one in drawn]
    return Hallucination(
        visibility=visibility,
        temperature=temperature,
        pairs=len(groups),
        samples=samples,
        rate=bootstrap(np.mean, wrong, **options),
        precision=bootstrap(np.mean, 1 - wrong, **options),
        recall=bootstrap(np.mean, recall, **options),
        held_out=bootstrap(np.mean, unseen, **options),
        held_out_recall=bootstrap(np.mean, unseen_recall[known], **options) if known.any() else None,
        unfinished=sum(not one.finished for one in every) / len(every),
    )


def _shares(pair: Pair, drawn: list[GeneratedTriple], split: GraphSplit) -> list[float]:
    """Return a pair's share of wrong objects, its recall, its share of held-out objects and its recall of those."""
    verdicts = Counter(one.verdict for one in drawn)
    right = set(split.graph.by_pair[pair])
    hidden = right.difference(split.train.by_pair.get(pair, ()))
    found = {one.object for one in drawn if one.verdict != "hallucinated"}
    return [
        verdicts["hallucinated"] / len(drawn),
        len(found) / len(right),
        verdicts["held_out"] / len(drawn),
        len(found & hidden) / len(hidden) if hidden else np.nan,
    ]
