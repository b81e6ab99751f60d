"""The presets of `rest-em`, and the trials that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from fionalm.data.tasks import FUNCTION_ALPHABET, WORD_ALPHABET
from fionalm.models.config import DecoderConfig
from fionalm.models.shapes import SHAPES
from fionalm.studies.study import Scale
from fionalm.sweeps import Trial
from fionalm.training import Workload, to_plain

Task = Literal["words", "code"]
TASKS: tuple[Task, ...] = ("words", "code")
TRIALS = "fionalm.studies.rest_em.trials"


@dataclass(frozen=True)
class TaskSize:
    """How much of a task there is; the splits share no problem."""

    steps: tuple[int, ...]
    """Numbers of operations of a problem."""
    corpus: int
    """Problems with human solutions that the base model is trained on."""
    related_corpus: int
    """Problems of the related kind in it; of comparisons, of which there are few, a fifth."""
    base_steps: int
    """Updates of the base model: few enough that there is room to improve."""
    train: int
    """Problems that are sampled."""
    validation: int
    """Problems that stop a fine-tuning early."""
    test: int
    related: int
    """Test problems of the related kind; of comparisons a third."""
    samples: int
    """A problem and an iteration."""
    iterations: int
    evaluated: int = 0
    """Samples of a test problem for pass@k and majority votes; 0: greedy answers only."""
    max_tokens: int = 80
    largest: int = 20
    """No number of a word problem is above it."""


@dataclass(frozen=True)
class RestEMStudyConfig:
    """Sizes of the study. The defaults are the scale `laptop`."""

    seeds: int = 5
    words: TaskSize = TaskSize((2, 3), 2000, 250, 1000, 120, 60, 120, 45, 16, 3, 64)
    code: TaskSize = TaskSize((1, 2), 300, 120, 300, 48, 24, 100, 40, 16, 6)
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    model: str = ""
    """A pretrained base model in place of the tiny one: what `load_model` reads."""
    shape: str = ""
    """Its shape, for estimates of cost."""
    base_lr: float = 4e-3
    lr: float = 1e-3
    """Of every fine-tuning."""
    batch_size: int = 32
    epochs: int = 4
    """Of a fine-tuning, at most."""
    max_per_problem: int = 10
    continued: int = 3
    """Iterations that are compared with as many that continue."""
    smollm2: int = 48
    """Problems that SmolLM2-135M-Instruct trains on; 0: it is left out."""

    def size(self, task: Task) -> TaskSize:
        """Return how much of a task there is."""
        return self.words if task == "words" else self.code


@dataclass(frozen=True)
class Base:
    """All that a base model depends on."""

    task: Task
    seed: int
    steps: tuple[int, ...]
    largest: int
    corpus: int
    related_corpus: int
    base_steps: int
    d_model: int
    n_layers: int
    n_heads: int
    lr: float
    batch_size: int
    model: str = ""


@dataclass(frozen=True)
class Arm:
    """One way of training, from one base model."""

    base: Base
    size: TaskSize
    kind: Literal["base", "self", "human"] = "base"
    iterations: int = 0
    samples: int = 0
    start: Literal["base", "last"] = "base"
    solutions: int = 0
    """Human solutions to learn from."""
    lr: float = 1e-3
    epochs: int = 4
    max_per_problem: int = 10


def preset(scale: Scale) -> RestEMStudyConfig:
    """Return the study's size at `scale`; `cluster` has the paper's numbers of problems and samples."""
    laptop = RestEMStudyConfig()
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        return replace(
            laptop,
            seeds=1,
            words=TaskSize((1,), 100, 40, 150, 12, 8, 12, 4, 6, 3, 8),
            code=TaskSize((1,), 24, 8, 250, 5, 2, 5, 4, 2, 4),
            d_model=32,
            n_layers=1,
            n_heads=2,
            epochs=2,
            continued=2,
            smollm2=0,
        )
    if scale == "quick":
        return replace(
            laptop,
            seeds=3,
            words=replace(laptop.words, steps=(1, 2), corpus=800, base_steps=520, train=60, validation=30, test=80,
                          related=25, samples=8, evaluated=32),
            code=replace(laptop.code, base_steps=300, train=16, validation=8, test=24, related=9, samples=6),
            d_model=48,
            n_heads=3,
            epochs=3,
            smollm2=0,
        )  # fmt: skip
    return RestEMStudyConfig(
        seeds=1,
        words=TaskSize((4, 5, 6, 7, 8), 0, 0, 0, 7500, 500, 500, 48, 32, 3, 64, 512, 99),
        code=TaskSize((3, 4), 0, 0, 0, 2342, 250, 1000, 164, 64, 6, 0, 512),
        model="hf:google/gemma-2b",
        shape="gemma-2b",
        lr=1e-5,
        smollm2=0,
    )


def base_of(config: RestEMStudyConfig, task: Task, seed: int) -> Base:
    """Return the base model of a task and seed."""
    size = config.size(task)
    shape = (config.d_model, config.n_layers, config.n_heads)
    return Base(
        task, seed, size.steps, size.largest, size.corpus, size.related_corpus, size.base_steps, *shape, config.base_lr,
        config.batch_size, config.model,
    )  # fmt: skip


def arms(config: RestEMStudyConfig, task: Task, seed: int) -> dict[str, Arm]:
    """Return what is trained of a task, by name; `human` follows once ReST-EM's solutions are counted."""
    size = config.size(task)
    untrained = Arm(base_of(config, task, seed), size)
    trained = replace(
        untrained, kind="self", samples=size.samples, lr=config.lr, epochs=config.epochs,
        max_per_problem=config.max_per_problem,
    )  # fmt: skip
    found = {
        "base": untrained,
        "rest-em": replace(trained, iterations=size.iterations),
        "continue": replace(
            trained, iterations=min(config.continued, size.iterations), start="last", size=replace(size, evaluated=0)
        ),
    }
    if task == "words":
        found["once"] = replace(trained, iterations=1, samples=size.samples * size.iterations)
    return found


def human_arm(config: RestEMStudyConfig, seed: int, solutions: int) -> Arm:
    """Return the fine-tuning on so many human solutions of word problems."""
    return replace(arms(config, "words", seed)["once"], kind="human", solutions=solutions, iterations=1)


def trial(arm: Arm) -> Trial:
    """Return the trial that trains and measures an arm."""
    size = arm.size
    work = size.train * arm.samples * arm.iterations + size.test * size.evaluated + arm.solutions
    return Trial(f"{TRIALS}:run", to_plain(arm), cost=1.0 + work / 1000)


def all_arms(config: RestEMStudyConfig) -> dict[tuple[Task, str, int], Arm]:
    """Return every arm but the human ones by (task, name, seed)."""
    return {
        (task, name, seed): arm
        for task, seed in product(TASKS, range(config.seeds))
        for name, arm in arms(config, task, seed).items()
    }


def decoder(base: Base) -> DecoderConfig:
    """Return the shape of a tiny base model."""
    alphabet = WORD_ALPHABET if base.task == "words" else FUNCTION_ALPHABET
    return DecoderConfig(
        vocab_size=len(alphabet) + 1,
        d_model=base.d_model,
        n_layers=base.n_layers,
        n_heads=base.n_heads,
        max_seq_len=256,
    )


def plan(config: RestEMStudyConfig) -> list[Workload]:
    """Return every run of the study, for estimates of its cost; a run's samples are taken to be half its limit long."""
    return list(_workloads(config))


def _workloads(config: RestEMStudyConfig) -> Iterator[Workload]:
    every = all_arms(config)
    for seed in range(config.seeds):
        size = config.words
        every["words", "human", seed] = human_arm(config, seed, size.train * config.max_per_problem // 2)
    for arm in every.values():
        size = arm.size
        drawn = size.max_tokens // 2
        row = 2 * drawn
        iterations = arm.iterations
        kept = arm.solutions or size.train * min(arm.samples, arm.max_per_problem) // 2
        sampled = size.train * arm.samples * iterations + size.test * (size.evaluated + 1 + iterations)
        base_tokens = arm.base.base_steps * arm.base.batch_size * row if arm.kind == "base" else 0
        yield Workload(
            model=SHAPES[config.shape] if config.shape else decoder(arm.base),
            seq_len=row,
            trained_tokens=base_tokens + iterations * kept * arm.epochs * row,
            sampled_tokens=sampled * drawn,
            prompt_tokens=(size.train * iterations + size.test * (1 + iterations)) * drawn,
        )
