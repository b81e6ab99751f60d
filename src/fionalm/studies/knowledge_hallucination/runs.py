"""The trials of `knowledge-hallucination`: models of graphs, and detectors made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from fionalm.data.knowledge.config import TripleConfig
from fionalm.models.config import DecoderConfig
from fionalm.posttraining.detector_config import Task, Variant
from fionalm.studies.knowledge_hallucination.presets import KnowledgeHallucinationConfig, Shape
from fionalm.sweeps import Trial
from fionalm.training import to_plain

TRIALS = "fionalm.studies.knowledge_hallucination.trials"
VARIANTS: tuple[Variant, ...] = ("head", "full")
TASKS: tuple[Task, ...] = ("sentence", "token")


@dataclass(frozen=True)
class Generator:
    """A model of a graph, and what is asked of it. JSON values only."""

    data: TripleConfig
    shape: Shape
    epochs: int
    updates_per_epoch: int
    seed: int
    pairs: int
    """Of each visibility, at most, that are asked for objects."""
    samples: int
    temperatures: tuple[float, ...]
    detector_samples: int
    """Objects of every fully visible pair that detectors learn from and are tested on."""
    graph_id: str = ""
    """Fingerprint of a graph that is read from files: another file is another trial."""

    @property
    def decoder(self) -> DecoderConfig:
        """The model's shape, but for the vocabulary, which the graph's names decide."""
        width, layers = self.shape
        return DecoderConfig(
            vocab_size=self.data.vocab_size,
            d_model=width,
            n_layers=layers,
            n_heads=max(1, width // (16 if width < 256 else 64)),
            max_seq_len=2 * self.data.seq_len,
            norm="rmsnorm",
        )

    @property
    def lr(self) -> float:
        """Peak learning rate: falls with the width from 32 on."""
        return min(1e-2, 0.32 / self.shape[0])


@dataclass(frozen=True)
class Detecting:
    """Detectors of one generator's hallucinations, made of the model of another, or of its own. JSON values only."""

    generator: Generator
    base: Generator
    epochs: float
    variants: tuple[Variant, ...] = VARIANTS
    tasks: tuple[Task, ...] = TASKS


Key = tuple[str, Shape, int, float, int]
"""Graph, shape, epochs, share, seed."""
DetectorKey = tuple[str, Shape, Shape, int]
"""Graph, the generator's shape, the detector's, seed."""


def generators(config: KnowledgeHallucinationConfig) -> dict[Key, Generator]:
    """Return every model: all shapes and epochs on all data, and all shapes on smaller shares for the most epochs."""
    found: dict[Key, Generator] = {}
    for choice, shape, seed in product(config.graphs, config.shapes, range(config.seeds)):
        for epochs in config.epochs:
            found[choice.name, shape, epochs, 1.0, seed] = generator(
                config, choice.data, choice.updates_per_epoch, shape, epochs, seed
            )
        for share in choice.shares:
            data = replace(choice.data, fraction=choice.data.fraction * share)
            one = generator(config, data, choice.updates_per_epoch, shape, config.epochs[-1], seed)
            found[choice.name, shape, config.epochs[-1], share, seed] = replace(
                one, temperatures=(1.0,), detector_samples=0
            )
    return found


def generator(
    config: KnowledgeHallucinationConfig,
    data: TripleConfig,
    updates_per_epoch: int,
    shape: Shape,
    epochs: int,
    seed: int,
    graph_id: str = "",
) -> Generator:
    """Return a model of the data; the longest trained are asked at all temperatures, and for the detectors' rows."""
    longest = epochs == config.epochs[-1]
    return Generator(
        data=replace(data, synthetic=replace(data.synthetic, seed=seed), split_seed=seed, seq_len=SEQ_LEN),
        shape=shape,
        epochs=epochs,
        updates_per_epoch=updates_per_epoch,
        seed=seed,
        pairs=config.pairs,
        samples=config.samples,
        temperatures=config.temperatures if longest else (1.0,),
        detector_samples=config.detector_samples if longest else 0,
        graph_id=graph_id,
    )


SEQ_LEN = 128
"""No name of the embedded graph is so long that a triple has more tokens."""


def detectings(config: KnowledgeHallucinationConfig) -> dict[DetectorKey, Detecting]:
    """Return every pair of a generator, the longest trained on all data, and a model that is made its detectors."""
    made = generators(config)
    longest = config.epochs[-1]
    return {
        (choice.name, shape, base, seed): Detecting(
            made[choice.name, shape, longest, 1.0, seed],
            made[choice.name, base, longest, 1.0, seed],
            config.detector_epochs,
        )
        for choice, shape, base, seed in product(config.graphs, config.shapes, config.detectors, range(config.seeds))
    }


def generator_trial(run: Generator) -> Trial:
    """Return the trial that trains and asks a model."""
    updates = run.epochs * run.updates_per_epoch
    return Trial(f"{TRIALS}:generate", to_plain(run), cost=1.0 + updates * (1 + run.shape[0] / 32))


def detecting_trial(run: Detecting) -> Trial:
    """Return the trial that makes a model the detectors of a generator."""
    return Trial(f"{TRIALS}:detect", to_plain(run), cost=1.0 + run.base.shape[0] / 32)
