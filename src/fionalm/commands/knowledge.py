"""`fiona kg describe|split`: what a knowledge graph holds, and what of it a model would see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import Flat, Positional
from fionalm.data.knowledge.config import TripleConfig
from fionalm.data.knowledge.graph import SubsetBy
from fionalm.data.knowledge.synthetic import SyntheticGraph
from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.data.knowledge import GraphSplit, GraphStatistics

GRAPH_HELP = (
    "countries (embedded; extra: knowledge), synthetic, a file of subject<TAB>predicate<TAB>object lines, or a folder "
    "with FB15k-237's train.txt, valid.txt and test.txt, or some of them."
)
Graph = Positional[Annotated[str, tyro.conf.arg(metavar="GRAPH", help=GRAPH_HELP)]]
TRAIN_FILE, HELD_OUT_FILE, PAIRS_FILE, SPLIT_FILE = "train.tsv", "held_out.tsv", "pairs.tsv", "split.json"


@dataclass(frozen=True)
class GraphOptions:
    """Which part of a graph there is, and under which names."""

    labels: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """`id<TAB>name` lines: names in place of the graph's ids."""
    fraction: Annotated[float, tyro.conf.arg(metavar="P")] = 1.0
    """Share of the graph; a smaller share is part of a larger one."""
    subset_by: SubsetBy = "triples"
    """What the share is of: triples, or subjects with all their triples."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the share, and of the split."""
    synthetic: SyntheticGraph = field(default_factory=SyntheticGraph)
    """What GRAPH synthetic is."""

    def config(self, graph: str, **others: Any) -> TripleConfig:
        """Return these options as a training run's data."""
        return TripleConfig(
            graph=graph,
            labels=self.labels,
            fraction=self.fraction,
            subset_by=self.subset_by,
            split_seed=self.seed,
            synthetic=self.synthetic,
            **others,
        )


def describe(
    graph: Graph = "countries",
    ask: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="SUBJECT PREDICATE")] = None,
    predicates: Annotated[int, tyro.conf.arg(metavar="N")] = 15,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    options: Annotated[GraphOptions, Flat] = GraphOptions(),
) -> None:
    """Count a knowledge graph: subjects, predicates, objects, how many objects a pair has, how skewed they are.

    A malformed line is named by file and number. Repeated triples count once.

    For example: fiona kg describe countries --ask France borders

    Args:
        graph: what is described.
        ask: print the objects of one pair in place of the counts.
        predicates: most frequent predicates shown.
        out: also write the counts as JSON.
        options: which part.
    """
    from fionalm.commands.outcome import columns
    from fionalm.data.knowledge import load_graph
    from fionalm.paths import atomic_write_text

    loaded = load_graph(options.config(graph))
    if ask is not None:
        print("\n".join(loaded.objects(*ask)))
        return
    found = loaded.statistics()
    print(f"{loaded.name}: {found.triples:,} triples ({found.duplicates:,} repeated ones left out)\n")
    print(columns(["what", "how many"], _counts(found)))
    names = ["each", "has", "mean", "median", "most", "which", "share of the top 1%"]
    print("", columns(names, _degrees(found)), "", sep="\n")
    frequent = list(found.triples_per_predicate.items())[:predicates]
    print(columns(["predicate", "triples"], [[_short(name, 70), count] for name, count in frequent]))
    if len(found.triples_per_predicate) > predicates:
        print(f"and {len(found.triples_per_predicate) - predicates} more")
    if out is not None:
        atomic_write_text(out, json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
        print(f"counts: {out.resolve()}")


def split(
    graph: Graph = "countries",
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/kg-split"),
    partially_visible: Annotated[float, tyro.conf.arg(metavar="P")] = 0.1,
    invisible: Annotated[float, tyro.conf.arg(metavar="P")] = 0.1,
    held_out: Annotated[float, tyro.conf.arg(metavar="P")] = 0.5,
    options: Annotated[GraphOptions, Flat] = GraphOptions(),
) -> None:
    """Divide a graph's (subject, predicate) pairs by what training shows of their objects: all, some or none.

    Writes train.tsv, held_out.tsv, pairs.tsv (with each pair's split) and split.json. `fiona kg train` makes the same
    split from the same options by itself; this is to look at it, or to use it elsewhere.

    For example: fiona kg split countries --invisible 0.2 --out runs/split

    Args:
        graph: what is divided.
        out: folder of the files; they are replaced.
        partially_visible: share of the pairs some of whose objects are held out; pairs of one object cannot be.
        invisible: share of the pairs that are held out.
        held_out: share of a partially visible pair's objects that are held out; one stays at least.
        options: which part of the graph, and the seed.
    """
    from fionalm.commands.outcome import columns
    from fionalm.data.knowledge import load_split

    config = options.config(graph, partially_visible=partially_visible, invisible=invisible, held_out=held_out)
    found = load_split(config)
    _write(found, out, config)
    print(columns(["pairs", "how many", "their triples", "held out"], split_rows(found)))
    counts = found.to_dict()
    known = counts["invisible_pairs_of_trained_subjects"]
    print(f"{counts['train_triples']:,} of {counts['triples']:,} triples are trained on; of the invisible pairs,")
    print(f"{known:,} are of subjects that training shows with other predicates")
    print(f"split: {out.resolve()}")


def split_rows(split: GraphSplit) -> list[list[Any]]:
    """Return a table's rows: the split, its pairs, their triples, and those held out."""
    held = {name: 0 for name, _ in split.visibilities()}
    for subject, predicate, _ in split.held_out:
        held[split.visibility[subject, predicate]] += 1
    return [
        [spoken(name), len(pairs), sum(len(split.graph.by_pair[pair]) for pair in pairs), held[name]]
        for name, pairs in split.visibilities()
    ]


def spoken(name: str) -> str:
    """Return a split's name in words."""
    return name.replace("_", " ")


def on_graph(data: Any, graph: str) -> TripleConfig:
    """Return a run's data with GRAPH in it.

    Raises:
        UserError: the data is a text corpus, or names another graph.
    """
    if not isinstance(data, TripleConfig):
        raise UserError("the configuration file's data is a text corpus: expected one of fiona kg train")
    same = data.graph in (graph, TripleConfig().graph) or Path(data.graph).resolve() == Path(graph).resolve()
    if not same:
        raise UserError(f"both the graph {graph} and --data.graph {data.graph} were given: expected one of them")
    return replace(data, graph=graph)


def _write(split: GraphSplit, out: Path, config: TripleConfig) -> None:
    from fionalm.paths import atomic_write_text
    from fionalm.training import to_plain

    def lines(rows: Sequence[Sequence[str]]) -> str:
        return "".join("\t".join(row) + "\n" for row in rows)

    atomic_write_text(out / TRAIN_FILE, lines(split.train.triples))
    atomic_write_text(out / HELD_OUT_FILE, lines(split.held_out))
    atomic_write_text(out / PAIRS_FILE, lines([(*pair, split.visibility[pair]) for pair in split.graph.pairs]))
    facts = {"graph": split.graph.fingerprint, "counts": split.to_dict(), "config": to_plain(config)}
    atomic_write_text(out / SPLIT_FILE, json.dumps(facts, indent=2) + "\n")


def _counts(found: GraphStatistics) -> list[list[Any]]:
    return [
        ["subjects", found.subjects],
        ["predicates", found.predicates],
        ["different objects", found.objects],
        ["entities (subjects and objects)", found.entities],
        ["pairs of subject and predicate", found.pairs],
        ["pairs with several objects", found.pairs_with_several],
    ]


def _degrees(found: GraphStatistics) -> list[list[Any]]:
    named = (
        ("pair", "objects", found.objects_per_pair),
        ("subject", "triples", found.triples_per_subject),
        ("object", "triples", found.triples_per_object),
    )
    return [
        [each, has, one.mean, one.median, one.largest, _short(one.largest_name, 40), one.top_percent_share]
        for each, has, one in named
    ]


def _short(name: str, longest: int) -> str:
    """Cut a name to its end, which tells more of a Freebase path than its start."""
    return name if len(name) <= longest else "..." + name[3 - longest :]
