"""What can be set about `knowledge-hallucination`, and its scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fionalm.data.knowledge.config import TripleConfig
from fionalm.data.knowledge.synthetic import SyntheticGraph
from fionalm.studies.study import Scale

Shape = tuple[int, int]
"""Width and layers; a decoder of it has 12 layers * width^2 non-embedding parameters, norms aside."""
PAPER_SHAPES: tuple[Shape, ...] = ((256, 4), (512, 8), (768, 16), (1024, 32), (2048, 32))
"""3.15M, 25.2M, 113M, 403M and 1.61B: the published counts, from which these shapes follow."""


@dataclass(frozen=True)
class GraphChoice:
    """A graph that claims are measured on."""

    name: Literal["synthetic", "countries"]
    data: TripleConfig
    """All the data; seeds of graph, subset and split are those of the run."""
    shares: tuple[float, ...]
    """Smaller shares of it that are trained on, too."""
    updates_per_epoch: int = 16
    """Of all shares, so that equal epochs are equal updates: the batch grows with the data."""


@dataclass(frozen=True)
class RealGraph:
    """FB15k-237: one seed, no claim."""

    folder: str = ""
    """With train.txt, valid.txt, test.txt or some of them; empty: the environment's FIONA_FB15K237."""
    labels: str = ""
    """A file of `id<TAB>name` lines; empty: the environment's FIONA_FB15K237_LABELS, or none."""
    triples: int = 2000
    """About as many, of whole subjects; 0: all."""
    vocab_size: int = 1024
    shapes: tuple[Shape, ...] = ((32, 2), (64, 2))
    epochs: tuple[int, ...] = (16, 32)
    updates_per_epoch: int = 16


@dataclass(frozen=True)
class KnowledgeHallucinationConfig:
    """Sizes of the study. The defaults are the scale `laptop`."""

    seeds: int = 5
    graphs: tuple[GraphChoice, ...] = (
        GraphChoice(
            "synthetic",
            TripleConfig("synthetic", synthetic=SyntheticGraph(240, 4, 100), subset_by="subjects", vocab_size=300),
            (0.25,),
            20,
        ),
        GraphChoice(
            "countries", TripleConfig("countries", fraction=0.12, subset_by="subjects", vocab_size=512), (0.25,), 20
        ),
    )
    shapes: tuple[Shape, ...] = ((16, 2), (32, 2), (64, 2), (128, 2))
    """Smallest first."""
    epochs: tuple[int, ...] = (4, 24, 48)
    """Shortest first, the last twice the one before; each is a training of its own, with its own schedule."""
    pairs: int = 160
    samples: int = 16
    temperatures: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    detectors: tuple[Shape, ...] = ((16, 2), (64, 2), (128, 2))
    """Models that are made detectors, smallest first; each of `shapes`."""
    detector_samples: int = 4
    detector_epochs: float = 4.0
    """At most: validation stops earlier."""
    real: RealGraph | None = field(default_factory=RealGraph)


def preset(scale: Scale) -> KnowledgeHallucinationConfig:
    """Return the study's size at `scale`; `cluster` has the paper's models, epochs and shares.

    The paper's own graph is not public: a synthetic one of 1.2 million triples stands in for it.
    """
    laptop = KnowledgeHallucinationConfig()
    if scale == "laptop":
        return laptop
    synthetic, countries = laptop.graphs
    if scale == "smoke":
        return KnowledgeHallucinationConfig(
            seeds=1,
            graphs=(
                replace(
                    synthetic,
                    data=replace(synthetic.data, synthetic=SyntheticGraph(20, 3, 12)),
                    shares=(0.5,),
                    updates_per_epoch=6,
                ),
                replace(countries, data=replace(countries.data, fraction=0.05), shares=(0.5,), updates_per_epoch=6),
            ),
            shapes=((16, 1), (32, 1)),
            epochs=(2, 8, 16),
            pairs=24,
            samples=8,
            temperatures=(0.0, 1.0),
            detectors=((16, 1), (32, 1)),
            detector_samples=2,
            detector_epochs=1.0,
            real=None,
        )
    if scale == "quick":
        return replace(
            laptop,
            seeds=3,
            graphs=(
                replace(
                    synthetic,
                    data=replace(synthetic.data, synthetic=SyntheticGraph(80, 4, 50)),
                    shares=(0.25,),
                    updates_per_epoch=16,
                ),
                replace(countries, data=replace(countries.data, fraction=0.1), shares=(0.25,), updates_per_epoch=16),
            ),
            shapes=((16, 2), (32, 2), (64, 2)),
            epochs=(4, 16, 32),
            pairs=80,
            temperatures=(0.0, 0.5, 1.0),
            detectors=((16, 2), (64, 2)),
            real=None,
        )
    million = replace(synthetic.data, synthetic=SyntheticGraph(60_000, 10, 1000), vocab_size=8192)
    return replace(
        laptop,
        seeds=1,
        graphs=(
            GraphChoice("synthetic", million, (0.01, 0.1), 1000),
            GraphChoice("countries", replace(countries.data, fraction=1.0, vocab_size=4096), (0.1,), 100),
        ),
        shapes=PAPER_SHAPES,
        epochs=(1, 2, 10, 20, 100, 200),
        pairs=1000,
        detectors=PAPER_SHAPES,
        detector_samples=5,
        real=RealGraph(triples=0, vocab_size=8192, shapes=PAPER_SHAPES[:3], epochs=(20, 100), updates_per_epoch=300),
    )  # fmt: skip
