"""Training any causal language model, resumable at any step, in one process or many.

    result = train(TrainConfig(steps=200), out="runs/first")
    result.final_loss, result.diverged

The same config on the same machine with the same number of threads gives the same numbers, whether or not the run
was killed and resumed on the way. (Some of CUDA's kernels sum in any order; `torch.use_deterministic_algorithms`
chooses others.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fionalm.data import load_data
from fionalm.errors import UserError
from fionalm.training.build import build, make_batches
from fionalm.training.config import TrainConfig
from fionalm.training.distributed import World, distributed
from fionalm.training.environment import environment
from fionalm.training.export import export_model
from fionalm.training.interrupt import stop_on_signals
from fionalm.training.loop import Loop, Probe
from fionalm.training.metrics import MetricsLog
from fionalm.training.result import TrainResult
from fionalm.training.run_folder import RunFolder
from fionalm.training.state import TrainState

RESULT_FILE = "result.json"


def train(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    model: nn.Module | None = None,
    corpus: Any = None,
    probes: Sequence[Probe | Callable[..., Probe]] = (),
    quiet: bool = False,
    device: str | torch.device | None = None,
) -> TrainResult:
    """Train a model and return what became of its loss.

    A loss that is not finite ends the run early as a result with `diverged=True` and an infinite final loss. It is no
    error; a loss that merely rises is not called divergence.

    Args:
        config: everything that the numbers depend on.
        out: run folder; resumed if it has this config's run, and read if that is finished. None: nothing is written.
        model: trained in place of the config's own, from the weights that it has; maps `input_ids` to
            `.logits`, as every `transformers` causal model does.
        corpus: has `.train` and `.validation` token arrays, or is a `TripleCorpus`; None: `load_data(config.data)`.
        probes: objects, or what builds one when called with the model and `every=config.probe_every`.
        quiet: no progress.
        device: `cpu`, `cuda` or a device; None: this process's GPU if there is one.

    Raises:
        UserError: a folder of another run, a full disk, a corpus or a batch size that does not fit.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step and, with `out`, a checkpoint; says how to resume.
    """
    with distributed(device) as world:
        # In a function of its own: what it builds must be gone before the process group is.
        return _train(config, out, model, corpus, probes, quiet, world)


def _train(
    config: TrainConfig,
    out: str | Path | None,
    model: nn.Module | None,
    corpus: Any,
    probes: Sequence[Probe | Callable[..., Probe]],
    quiet: bool,
    world: World,
) -> TrainResult:
    with ExitStack() as stack:
        folder = _Opened(stack)
        finished = world.on_main(partial(folder.open, out, config))
        if finished is not None:
            return TrainResult.from_dict(finished)
        stack.enter_context(_own_random_numbers(config, world))
        if corpus is None:
            silent = quiet or not world.is_main
            corpus = world.main_first(lambda: load_data(config.data, quiet=silent))
        world.on_main(partial(folder.describe, corpus, world))
        built = build(config, model, world)
        batches = make_batches(config, corpus, world, built.vocab_size)
        # Before a checkpoint is loaded, for a probe may measure against the initial weights.
        active = [stack.enter_context(_attached(probe, built.model, config)) for probe in probes]
        checkpoints = None if out is None else Path(out) / "checkpoints"
        rows = [] if checkpoints is None else _resume(checkpoints, built.state, folder, world)
        log = MetricsLog(folder.folder, rows)
        with stop_on_signals(out is not None) as stop:
            quiet = quiet or not world.is_main
            Loop(config, built, batches, active, log, checkpoints, world, stop, quiet).run()
        seconds, steps = built.state.seconds, built.state.step
        rate = steps * batches.tokens_per_step / seconds if seconds else 0.0
        result = TrainResult.from_rows(log.rows, steps=steps, seconds=seconds, tokens_per_second=rate)
        if out is not None and not result.diverged:
            export_model(built.model, getattr(corpus, "tokenizer", None), Path(out) / "model", world)
        return world.on_main(partial(folder.finish, result))


class _Opened:
    """The run folder, open in the main process alone."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.folder: RunFolder | None = None

    def open(self, out: str | Path | None, config: TrainConfig) -> Any:
        """Open the folder, and return its result if the run is finished."""
        if out is None:
            return None
        self.folder = self.stack.enter_context(RunFolder.open(out, config.to_dict()))
        return self.folder.read_json(RESULT_FILE)

    def describe(self, corpus: Any, world: World) -> None:
        """Write the environment of a new run; see that a resumed one reads the same text."""
        if self.folder is None:
            return
        fingerprint = getattr(corpus, "fingerprint", None)
        known = self.folder.read_json("environment.json")
        if known is None:
            found = {**environment(world.device), "processes": world.size, "corpus": fingerprint}
            self.folder.write_json("environment.json", found)
        elif known.get("corpus") != fingerprint:
            raise UserError(
                f"{self.folder.path} was begun with the corpus {known.get('corpus')}, and its text has changed to "
                f"{fingerprint}: expected the same text, or another folder"
            )

    def finish(self, result: TrainResult) -> TrainResult:
        """Write the result, which marks the run as finished, and return it."""
        if self.folder is not None:
            self.folder.write_json(RESULT_FILE, result.to_dict())
        return result


def _resume(checkpoints: Path, state: TrainState, folder: _Opened, world: World) -> list[dict[str, Any]]:
    """Load the newest checkpoint, if there is one, and return the rows of metrics of the steps before it."""
    from fionalm.training import checkpoint

    newest = world.on_main(lambda: checkpoint.latest(checkpoints))
    if newest is not None:
        checkpoint.load(newest, state, world)
    return world.on_main(lambda: folder.folder.truncate(state.step) if folder.folder else [])


@contextmanager
def _own_random_numbers(config: TrainConfig, world: World) -> Iterator[None]:
    """Seed what draws from torch's global generators, such as dropout, and give the caller's back afterwards."""
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(config.seed + world.rank)
        yield


@contextmanager
def _attached(probe: Any, model: nn.Module, config: TrainConfig) -> Iterator[Probe]:
    """Build a probe that was given as its class or a function, and take its hooks off at the end."""
    if not callable(probe):
        yield probe
        return
    if not config.probe_every:
        raise UserError("probes were given with probe_every 0: expected the steps between measurements, such as 50")
    built: Any = probe(model, every=config.probe_every)
    try:
        yield built
    finally:
        close = getattr(built, "close", None)
        if close is not None:
            close()
