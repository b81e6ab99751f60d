"""`fiona harden`: train a model to stay right under attack, and see by family what it helped and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.finetune_options import is_main
from fionalm.commands.options import Flat, Folder, Positional
from fionalm.errors import UserError
from fionalm.redteam.hardening_config import HardenConfig
from fionalm.redteam.problems import ProblemConfig

if TYPE_CHECKING:
    from fionalm.posttraining import Policy
    from fionalm.redteam.attacks import Attack
    from fionalm.redteam.hardening import Accuracy, Hardened
    from fionalm.report import Chart, Section

UNRELATED_BYTES, UNRELATED_CHARACTERS = 48_000, 1500
GROUPS = {"clean": "clean", "control": "harmless text", "train": "attacks of training", "held-out": "held-out attacks"}
Count = tyro.conf.arg(metavar="N")


@dataclass(frozen=True, kw_only=True)
class HardenData:
    """Which attacks and problems are learnt from, and which are measured."""

    attacks: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Attack library of fiona attack arithmetic, a JSON object a line. None: the hand-written families."""
    test_attacks: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Another library, to measure; it may share no family with --attacks."""
    test_families: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Families of --attacks that are held out. Empty: fiction, correction, hidden quantities and code."""
    train_problems: Annotated[int, Count] = 120
    """Problems to learn from."""
    test_problems: Annotated[int, Count] = 20
    """Problems to measure, of other sums."""
    problems: ProblemConfig = ProblemConfig()  # noqa: RUF009 (frozen)
    """What is asked."""
    unrelated: Annotated[str, tyro.conf.arg(metavar="TEXT")] = "stdlib"
    """Text whose perplexity should not rise: stdlib, a file, a folder, hf:NAME, or none."""


def harden(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    out: Folder = Path("runs/harden"),
    data: Annotated[HardenData, Flat] = HardenData(),
    settings: Annotated[HardenConfig, Flat] = HardenConfig(),  # noqa: B008 (frozen)
    chat: bool | None = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    quiet: bool = False,
) -> None:
    """Train a model on arithmetic under attack, rewarded by the exact answer, and measure it before and after.

    Attacks that are learnt from and attacks that are measured have no family in common, nor the problems a sum. The
    same command resumes a run that was stopped, and reads one that is finished. Many processes: torchrun
    --nproc-per-node 2 -m fionalm.cli -- harden ...

    For example: fiona harden smollm2 --attacks runs/attack/attacks.jsonl --method ppo --steps 50 --out runs/harden

    Args:
        model: a model or run folder, a .gguf file, hf:NAME or smollm2.
        out: run folder: the hardened model, its training, every measured answer and the report.
        data: attacks and problems.
        settings: how it learns.
        chat: ask in the model's chat template. None: where it has one.
        device: cpu or cuda. None: a GPU if there is one.
        quiet: show no progress.
    """
    from fionalm.posttraining import load_policy
    from fionalm.redteam.hardening import harden as run
    from fionalm.redteam.problems import make_problems

    train, test = _attacks(data)
    learnt = make_problems(data.train_problems, "train", data.problems)
    measured = make_problems(data.test_problems, "test", data.problems)
    policy = load_policy(model, device=device)
    chat = policy.tokenizer.has_chat_template if chat is None else chat
    texts = _unrelated(policy, data.unrelated)
    found = run(
        policy,
        train,
        test,
        settings,
        problems=learnt,
        test_problems=measured,
        unrelated=texts,
        render=_as_message if chat else None,
        out=out,
        quiet=quiet,
    )
    if is_main():
        _show(found, settings, out, data.unrelated, bool(texts))


def _as_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _attacks(data: HardenData) -> tuple[list[Attack], list[Attack]]:
    from fionalm.redteam.families import family_attacks
    from fionalm.redteam.hardening_rows import split_by_family
    from fionalm.redteam.library import AttackLibrary

    attacks = family_attacks() if data.attacks is None else list(AttackLibrary.load(data.attacks))
    if data.test_attacks is None:
        return split_by_family(attacks, data.test_families)
    if data.test_families:
        raise UserError("--test-families names families of --attacks: expected it without --test-attacks")
    return attacks, list(AttackLibrary.load(data.test_attacks))


def _unrelated(policy: Policy, source: str) -> list[str]:
    """Return short texts of a source; none where the model's vocabulary cannot write them."""
    if source == "none":
        return []
    from fionalm.data import DataConfig, read_documents
    from fionalm.redteam.unrelated import readable

    documents = [
        text[:UNRELATED_CHARACTERS] for text in read_documents(DataConfig(source, max_bytes=UNRELATED_BYTES * 8))
    ]
    few = documents[: UNRELATED_BYTES // UNRELATED_CHARACTERS]
    found = readable(policy, few)
    if not found and source != "stdlib":
        raise UserError(
            f"the model's tokenizer can write none of {source}'s {len(few)} texts: expected others, or none"
        )
    return found


def _show(found: Hardened, settings: HardenConfig, out: Path, unrelated: str, has_texts: bool) -> None:
    """Print the table, and write figures and report."""
    from fionalm.commands.outcome import columns
    from fionalm.report import Section, Table, save_figure, write_report, write_sections
    from fionalm.report.folder import FIGURES_FOLDER

    names = [
        "asked",
        "family",
        "before",
        "95% interval",
        "after",
        "95% interval",
        "change",
        "95% interval",
        "prompts",
        "",
    ]
    rows = [_row(one) for one in found.accuracies]
    sentences = _sentences(found, settings, unrelated, has_texts)
    print(columns(names, rows))
    print("\n".join(sentences))
    charts = _charts(found, settings)
    figures = [
        save_figure(chart, out / FIGURES_FOLDER, name, caption, order=order)
        for order, (name, (chart, caption)) in enumerate(charts.items())
    ]
    caption = (
        "Accuracy on test problems, before and after, with Wilson intervals; changes with intervals over problems."
    )
    sections = [Section("What came of it", "\n\n".join(sentences), [Table([*names[:-1], "standing"], rows, caption)])]
    write_sections(out, [*sections, _gallery(found)])
    report = write_report(out)
    print(f"model: {(out / 'model').resolve()}")
    print(f"report: {report.resolve()}")
    print(f"figure: {figures[0].resolve()}")


def _row(one: Accuracy) -> list[Any]:
    from fionalm.report.wording import format_interval

    cells: list[Any] = [GROUPS[one.group], one.family]
    for interval in (one.before, one.after, one.change):
        cells += [round(interval.estimate, 3), format_interval(interval.low, interval.high)]
    return [*cells, one.prompts, one.verdict]


def _sentences(found: Hardened, settings: HardenConfig, unrelated: str, has_texts: bool) -> list[str]:
    from fionalm.report.wording import format_interval

    lines = [f"{settings.method}: {found.steps} steps"]
    if found.reward is not None:
        lines[0] += f"; mean reward {found.reward[0]:.3f} in the first tenth of them, {found.reward[1]:.3f} in the last"
    for group in ("clean", "control", "train", "held-out"):
        one = next((one for one in found.accuracies if (one.group, one.family) == (group, "all")), None)
        if one is not None:
            change = f"{one.change.estimate:+.3f} {format_interval(one.change.low, one.change.high)}"
            accuracies = f"{one.before.estimate:.3f} -> {one.after.estimate:.3f}"
            lines.append(f"{GROUPS[group]}: accuracy {accuracies}, {change}: {one.verdict}")
    if found.perplexity is not None and found.perplexity_change is not None:
        change = found.perplexity_change
        before, after = found.perplexity
        words = {"rose": "it fell", "held": "held", "fell": "it rose", None: "not decided"}
        lines.append(
            f"perplexity of {unrelated}: {before:.4g} -> {after:.4g}, {change.estimate:+.2%} "
            f"({change.low:+.2%} to {change.high:+.2%}): {words.get(found.perplexity_standing, 'not decided')}"
        )
    elif unrelated != "none" and not has_texts:
        lines.append(f"perplexity of {unrelated}: not measured, for the model's vocabulary cannot write it")
    lines.append(
        f"held: the interval lies above a fall of {settings.tolerance:g}; fell: below 0, and by more than that; "
        "not decided: too few prompts to say"
    )
    return lines


def _charts(found: Hardened, settings: HardenConfig) -> dict[str, tuple[Chart, str]]:
    from fionalm.report import Line, forest, lines_with_intervals

    rows = {}
    for one in found.accuracies:
        name = GROUPS[one.group] if one.family == "all" else one.family
        rows |= {f"{name}, before": one.before, f"{name}, after": one.after}
    chart = forest(rows, x_label="share of right answers")
    charts = {"accuracy": (chart, "Accuracy by attack family, before and after hardening, with 95% intervals.")}
    key = "reward" if found.reward is not None else "loss"
    points = [(row["step"], row[key]) for row in found.rows if row.get(key) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        label = "mean reward of the batch" if key == "reward" else "loss (nats a token)"
        line = lines_with_intervals([Line(settings.method, steps, values)], x_label="step", y_label=label)
        charts["training"] = (line, "Training.")
    return charts


def _gallery(found: Hardened) -> Section:
    """Return replies before and after, those that changed first."""
    from fionalm.report import Section, Table

    names = ["asked", "family", "prompt", "right", "wanted by the attack", "reply before", "reply after"]
    rows = [
        [
            GROUPS.get(one["condition"], one["condition"]),
            one["family"],
            one["prompt"],
            one["answer"],
            one["target"] if one["condition"] == "attack" else None,
            f"{one['before'].strip()} ({one['outcome_before']})",
            f"{one['after'].strip()} ({one['outcome_after']})",
        ]
        for one in found.examples
    ]
    return Section("Replies", "Replies that changed come first.", [Table(names, rows)])
