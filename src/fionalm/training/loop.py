"""The loop of a training run: step, measure, evaluate, save, stop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fionalm.progress import Progress, progress
from fionalm.training.build import Batches, Built
from fionalm.training.config import TrainConfig
from fionalm.training.distributed import World
from fionalm.training.interrupt import Stop
from fionalm.training.metrics import MetricsLog
from fionalm.training.step import StepResult, evaluate, train_step


class Probe(Protocol):
    """Measures a model during training, at a cadence of its own.

    One that has `after_backward()` is called there too, when the gradients are whole and not yet clipped.
    """

    def begin(self, step: int) -> object:
        """Get ready before the step's forward pass."""

    def end(self, step: int) -> Mapping[str, float] | None:
        """Return what was measured, after the update; the step's gradients are still there."""


@dataclass
class Loop:
    """A run from its state's step to its end, its divergence, or the user's wish to stop."""

    config: TrainConfig
    built: Built
    batches: Batches
    probes: Sequence[Probe]
    log: MetricsLog
    checkpoints: Path | None
    """None: nothing is saved."""
    world: World
    stop: Stop
    quiet: bool = False
    _unread: list[Tensor] = field(default_factory=list)
    """Statistics of steps whose losses have not been looked at."""
    _logged: tuple[int, float] = (0, 0.0)
    """Step and seconds at the last row of losses, for the rate."""

    def run(self) -> None:
        """Train; the state, the log and the checkpoints hold what came of it.

        Raises:
            KeyboardInterrupt: stopped after a step and its checkpoint.
            UserError: the disk is full.
        """
        config, state = self.config, self.built.state
        # Where reading a number costs nothing every loss is looked at, elsewhere a window of them at a time.
        eager = self.world.size == 1 and self.world.device.type == "cpu"
        saving = self.checkpoints is not None
        self._logged = (state.step, state.seconds)
        self.built.parallel.module.train()
        with progress(config.steps - state.step, "training", "steps", quiet=self.quiet) as bar:
            for step in range(state.step, config.steps):
                started = time.perf_counter()
                done = self._step(step)
                last = step == config.steps - 1
                logs = last or step % config.log_every == 0
                evaluates = bool(self.batches.validation) and (last or _is_due(step, config.eval_every))
                saves = saving and (last or _is_due(step, config.checkpoint_every))
                stops = saving and not last and self.world.any(self.stop.requested)
                if eager or logs or evaluates or saves or stops:
                    losses = self._read_losses()
                    state.seconds += time.perf_counter() - started
                    diverged = _first_not_finite(losses)
                    if diverged is not None:
                        state.step += diverged + 1
                        return self.log.diverge(state.step - 1)
                    state.step = step + 1
                    if logs:
                        self._log_row(step, done, losses[-1], bar)
                    if evaluates and not self._evaluate(step):
                        return None
                    self.log.commit()
                else:
                    state.seconds += time.perf_counter() - started
                state.scheduler.step()
                if self.checkpoints is not None and (saves or stops):
                    self._save(self.checkpoints)
                if stops:
                    raise KeyboardInterrupt(
                        f"training is at step {state.step} of {config.steps}: the same command resumes it"
                    )
        return None

    def _step(self, step: int) -> StepResult:
        parallel, state = self.built.parallel, self.built.state
        shares = self.batches.shares
        for probe in self.probes:
            probe.begin(step)
        done = train_step(
            parallel.module,
            state.optimizer,
            self.batches.train(step),
            parameters=self.built.trained,
            parts=self.config.grad_accumulation,
            clip_norm=self.config.clip_norm,
            precision=self.built.precision,
            set_sync=parallel.set_sync,
            after_backward=self._after_backward if self.probes else None,
            shares=shares and shares(step, self.config.grad_accumulation),
        )
        for probe in self.probes:
            self.log.add(step, probe.end(step))
        self._unread.append(done.statistics)
        return done

    def _after_backward(self) -> None:
        for probe in self.probes:
            observe = getattr(probe, "after_backward", None)
            if observe is not None:
                observe()

    def _read_losses(self) -> list[list[float]]:
        """Return the statistics of the steps since they were last read, over all processes."""
        read = self.world.mean(torch.stack(self._unread)).tolist()
        self._unread.clear()
        return read

    def _log_row(self, step: int, done: StepResult, losses: list[float], bar: Progress) -> None:
        config, state = self.config, self.built.state
        loss, log_z, log_z_square = losses
        steps, seconds = state.step - self._logged[0], state.seconds - self._logged[1]
        rate = steps * self.batches.tokens_per_step / seconds
        self._logged = (state.step, state.seconds)
        group = state.optimizer.param_groups[0]
        values: dict[str, Any] = {
            "loss": loss,
            "lr": config.optimizer.lr * float(group["lr"]) / (group["initial_lr"] or 1.0),
            "log_z": log_z,
            "log_z_square": log_z_square,
            "tokens": round(state.step * self.batches.tokens_per_step),
            "tokens_per_second": rate,
        }
        if done.grad_norm is not None:
            values["grad_norm"] = _whole(done.grad_norm).item()
        self.log.add(step, values)
        bar.advance(steps, loss=loss, tokens_per_s=round(rate))

    def _evaluate(self, step: int) -> bool:
        """Add the validation loss to the step's row; return whether it is finite."""
        total = evaluate(
            self.built.parallel.module,
            self.batches.validation,
            parts=self.config.grad_accumulation,
            precision=self.built.precision,
            tokens=self.batches.validation_tokens,
        )
        self.built.parallel.release()
        loss = self.world.mean(total).item()
        self.log.add(step, {"validation_loss": loss})
        if not math.isfinite(loss):
            self.log.add(step, {"diverged": True})
            self.log.commit()
            return False
        return True

    def _save(self, folder: Path) -> None:
        from fionalm.training import checkpoint

        if self.log.folder is not None:
            self.log.folder.sync()
        checkpoint.save(folder, self.built.state, self.world, keep=self.config.keep_checkpoints)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _first_not_finite(losses: list[list[float]]) -> int | None:
    return next((index for index, (loss, *_) in enumerate(losses) if not math.isfinite(loss)), None)


def _whole(tensor: Any) -> Tensor:
    """Gather a tensor that FSDP2 has sharded; every process calls this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
