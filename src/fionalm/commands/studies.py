"""`fiona studies`, `reproduce`, `report` and `plan`: papers, their claims, their reports and their cost."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fionalm.errors import UserError, choice_error, nearest
from fionalm.studies import STUDIES, get_study

if TYPE_CHECKING:
    from fionalm.studies.study import Study
    from fionalm.training.config import TrainConfig
    from fionalm.training.plan import Device, Plan
    from fionalm.training.workload import Workload

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
    scale: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick",
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    executor: Literal["local", "ray"] = "local",
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    gpus: Annotated[float, tyro.conf.arg(metavar="N")] = 0,
    quiet: bool = False,
) -> None:
    """Train what a paper trained, measure its claims, and write a report.

    The same command resumes after a kill: trials that finished are kept and never run twice.

    For example: fiona reproduce training-instabilities --scale quick --out runs/ti

    Args:
        study: a name from `fiona studies`, or `all`.
        scale: smoke (does it run), quick (minutes), laptop (the documented numbers), cluster (the paper's sizes).
        out: run folder; default runs/STUDY-SCALE.
        seeds: random seeds of each trial; default: the scale's own.
        executor: local runs one-thread processes on this machine; ray spreads them over a cluster (extra `ray`).
        workers: how many trials run at once; default: one a core, or as many as Ray has room for.
        gpus: devices, or a fraction of one, that each trial reserves on Ray.
        quiet: print nothing but the summary.
    """
    from fionalm.report import print_summary, write_index
    from fionalm.studies.study import SCALES, configured
    from fionalm.studies.study import reproduce as run

    if scale not in SCALES:
        raise choice_error("scale", scale, SCALES)
    chosen = _named(study)
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
            gpus=gpus,
            quiet=quiet,
        )
        print_summary(folder)
    if study == "all":
        report_path = write_index(root)
        print(f"Report on {len(chosen)} studies: {report_path.resolve()}")


def report(folder: Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]) -> None:
    """Rebuild the report of a run folder, or of a folder of run folders, and print its summary.

    For example: fiona report runs/all-quick

    Args:
        folder: what a command wrote to with --out.
    """
    from fionalm.report import print_summary, write_report
    from fionalm.report.folder import holds_studies, is_run, study_folders

    if not folder.is_dir():
        raise UserError(f"no such run folder: {folder}{nearest(folder.name, _siblings(folder))}")
    folders = [folder] if is_run(folder) or holds_studies(folder) else study_folders(folder)
    if not folders:
        raise UserError(f"{folder} holds no run: expected config.json in it or in a folder below it")
    for one in folders:
        write_report(one)
        print_summary(one)


def _siblings(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []


def plan(
    study: Positional[Annotated[str, tyro.conf.arg(metavar="STUDY|all")]],
    scale: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cluster",
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "h100-80gb",
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
) -> None:
    """Say what a study would cost before it is run: runs, tokens, FLOPs, memory and device-hours.

    For example: fiona plan scaling-exponents --scale cluster --device h100-80gb

    Args:
        study: a name from `fiona studies`, or `all`.
        scale: smoke, quick, laptop or cluster.
        device: cpu-core, l4, rtx4090, a100-40gb, a100-80gb, h100-80gb, h200, b200 or mi300x.
        seeds: random seeds of each trial; default: the scale's own.
    """
    from fionalm.studies.study import SCALES, configured
    from fionalm.training.plan import DEVICES
    from fionalm.training.workload import estimate_any

    if scale not in SCALES:
        raise choice_error("scale", scale, SCALES)
    drawing = False
    for name, entry in _named(study):
        works = entry.plan(configured(entry, scale, seeds))
        plans = [estimate_any(work, device=device) for work in works]
        largest, work = max(zip(plans, works, strict=True), key=lambda pair: pair[0].memory_bytes)
        sampled = sum(one.sampled_tokens for one in plans)
        print(f"{name} at {scale} on {device}")
        print(f"  runs          {len(plans):,}")
        drawn = f" trained on, {sampled:.3g} sampled" if sampled else ""
        print(f"  tokens        {sum(one.tokens for one in plans):.3g}{drawn}")
        print(
            f"  FLOPs         {sum(one.flops for one in plans):.3g}, forward and backward, head and attention included"
        )
        print(f"  device-hours  {_hours(sum(one.device_hours for one in plans))}")
        print(f"  memory        {_bytes(largest.memory_bytes)} for the largest run{_sharing(work, largest)}")
        drawing = drawing or sampled > 0
    print(_assumptions(DEVICES[device], drawing))


def _sharing(work: TrainConfig | Workload, alone: Plan) -> str:
    """Say how many devices the largest run needs, where one does not hold it."""
    from fionalm.training import TrainConfig
    from fionalm.training.workload import Workload, estimate_any

    if alone.fits:
        return ""
    shared, note = replace(work, strategy="fsdp2"), ""
    if isinstance(shared, Workload) and shared.micro_batch_tokens > shared.seq_len:
        shared, note = replace(shared, micro_batch_tokens=shared.seq_len), ", one sequence at a time"
    for devices in (2**power for power in range(1, 13)):
        if isinstance(work, TrainConfig) and work.batch_size % devices:
            return f": more than {work.batch_size} sequences can be shared by; take a larger device"
        plan = estimate_any(shared, device=alone.device, devices=devices)
        if plan.fits:
            return f": {devices} devices share it with FSDP2{note}, {_bytes(plan.memory_bytes)} each"
    return ": more than 4,096 devices can share; take a larger device"


def _assumptions(device: Device, sampled: bool) -> str:
    from fionalm.training.workload import BANDWIDTH_SHARE

    peak = (device.bf16_flops or device.fp32_flops) / 1e12
    kind = "fp32" if device.bf16_flops is None else "bf16"
    assumed = (
        f"Assumed: {device.utilisation:.0%} of {device.name}'s {kind} peak of {peak:,.3g} TFLOP/s, which small models "
        "on a large device do not reach; parameters, gradients and optimizer state in fp32; memory within a factor of "
        "1.3."
    )
    if not sampled:
        return assumed
    speed = f"{BANDWIDTH_SHARE:.0%} of its memory's {device.bandwidth / 1e9:,.0f} GB/s"
    return f"{assumed} Tokens are drawn from weights in {kind}, as vLLM draws them, at {speed}."


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}"
    return f"{hours:.2g} ({hours * 3600:,.0f} s)" if hours < 1 / 60 else f"{hours:.2g} ({hours * 60:.0f} min)"


def _bytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def _named(study: str) -> list[tuple[str, Study[Any]]]:
    if study not in (*STUDIES, "all"):
        raise choice_error("study", study, (*STUDIES, "all"))
    return [(name, get_study(name)) for name in (STUDIES if study == "all" else [study])]


def _command(study: str, scale: str, seeds: int | None) -> str:
    words = ["fiona", "reproduce", study, "--scale", scale]
    return shlex.join(words if seeds is None else [*words, "--seeds", str(seeds)])
