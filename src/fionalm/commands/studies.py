"""`fiona studies`, `reproduce`, `report` and `plan`: papers, their claims, their reports and their cost."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fionalm.errors import UserError, choice_error
from fionalm.studies import STUDIES, get_study

Positional = tyro.conf.Positional


def studies() -> None:
    """List the studies: their papers, and each claim with what would support it."""
    for name in STUDIES:
        study = get_study(name)
        print(f"{name}: {study.title}\n  {study.paper}")
        for claim in study.claims:
            print(f"  - {claim.claim}\n      {claim.statistic}: supported if {claim.criterion}")
        print()
    print("fiona reproduce STUDY --scale smoke|quick|laptop|cluster")


def reproduce(
    study: Positional[Annotated[str, tyro.conf.arg(metavar="STUDY|all")]],
    scale: str = "quick",
    out: Path | None = None,
    seeds: int | None = None,
    executor: Literal["local", "ray"] = "local",
    workers: int | None = None,
    quiet: bool = False,
) -> None:
    """Train what a paper trained, measure its claims, and write a report.

    The same command resumes after a kill: trials that finished are kept and never run twice.

    Args:
        study: a name from `fiona studies`, or `all`.
        scale: smoke (does it run), quick (minutes), laptop (the documented numbers), cluster (the paper's sizes).
        out: run folder; default runs/STUDY-SCALE.
        seeds: random seeds of each trial; default: the scale's own.
        executor: local runs one-thread processes on this machine; ray spreads them over a cluster (extra `ray`).
        workers: how many trials run at once; default: one a core.
        quiet: print nothing but the summary.
    """
    from fionalm.report import print_summary, write_index
    from fionalm.studies.study import SCALES, configured
    from fionalm.studies.study import reproduce as run

    if scale not in SCALES:
        raise choice_error("scale", scale, SCALES)
    names = list(STUDIES) if study == "all" else [study]
    chosen = [(name, get_study(name)) for name in names]
    root = out or Path("runs") / f"{study}-{scale}"
    for name, entry in chosen:
        folder = root / name if study == "all" else root
        report_path = run(
            entry,
            configured(entry, scale, seeds),
            folder,
            scale=scale,
            command=_command(name, scale, seeds),
            executor=executor,
            workers=workers,
            quiet=quiet,
        )
        print_summary(folder)
    if study == "all":
        report_path = write_index(root)
        print(f"Report on {len(chosen)} studies: {report_path.resolve()}")


def report(folder: Positional[Path]) -> None:
    """Rebuild the report of a run folder, or of a folder of run folders, and print its summary.

    Args:
        folder: what `fiona reproduce` wrote to with --out.
    """
    from fionalm.report import print_summary, write_index, write_report

    if not folder.is_dir():
        raise UserError(f"no such run folder: {folder}")
    runs = [folder] if (folder / "claims.json").exists() else sorted(p.parent for p in folder.glob("*/claims.json"))
    if not runs:
        raise UserError(f"{folder} holds no finished study: expected claims.json in it or in a folder below it")
    for run_folder in runs:
        write_report(run_folder)
        print_summary(run_folder)
    if runs != [folder]:
        print(f"Report on {len(runs)} studies: {write_index(folder).resolve()}")


def plan(
    study: Positional[Annotated[str, tyro.conf.arg(metavar="STUDY|all")]],
    scale: str = "cluster",
    device: str = "h100-80gb",
    seeds: int | None = None,
) -> None:
    """Say what a study would cost before it is run: runs, tokens, FLOPs, memory and device-hours.

    Args:
        study: a name from `fiona studies`, or `all`.
        scale: smoke, quick, laptop or cluster.
        device: the device that would run it.
        seeds: random seeds of each trial; default: the scale's own.
    """
    from fionalm.studies.study import SCALES, configured
    from fionalm.training.plan import estimate

    if scale not in SCALES:
        raise choice_error("scale", scale, SCALES)
    names = list(STUDIES) if study == "all" else [study]
    for name in names:
        entry = get_study(name)
        plans = [estimate(config, device=device) for config in entry.plan(configured(entry, scale, seeds))]
        largest = max(plans, key=lambda one: one.memory_bytes)
        need = f"{largest.memory_bytes / 2**30:,.1f} GiB"
        print(f"{name} at {scale} on {device}")
        print(f"  runs          {len(plans):,}")
        print(f"  tokens        {sum(one.tokens for one in plans):.3g}")
        print(f"  FLOPs         {sum(one.flops for one in plans):.3g}")
        print(
            f"  device-hours  {sum(one.device_hours for one in plans):,.3g} at {largest.device.utilisation:.0%} of peak"
        )
        print(f"  memory        {need} for the largest run" + ("" if largest.fits else ": shard it with FSDP2"))


def _command(study: str, scale: str, seeds: int | None) -> str:
    words = ["fiona", "reproduce", study, "--scale", scale]
    return shlex.join(words if seeds is None else [*words, "--seeds", str(seeds)])
