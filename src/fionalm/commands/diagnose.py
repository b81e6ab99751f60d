"""`fiona coord-check`, `lr-transfer`, `stability` and `gamma-search`: diagnose your own model before you scale it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fionalm.errors import UserError, choice_error, require
from fionalm.models.config import DecoderConfig
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Positional = tyro.conf.Positional
Executor = Literal["local", "ray"]
BUILT_IN = ("decoder", "gpt2", "llama")
HALF_DECADES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def coord_check(
    model: Positional[str],
    parameterization: str = "mup",
    optimizer: str = "adam",
    alignment: str = "full",
    widths: tuple[int, ...] = (32, 64, 128, 256),
    base_width: int = 64,
    lr: float = 1e-2,
    steps: int = 4,
    seeds: int = 3,
    out: Path = Path("runs/coord-check"),
) -> None:
    """Check how activations and updates scale with width: one table, one figure, each layer's exponent.

    Args:
        model: decoder, gpt2, llama (transformers, built from a config), or a Hugging Face folder or config.json.
        parameterization: standard, ntk, mup or mfp.
        optimizer: adam, adam_atan2, adafactor or sgd.
        alignment: full, none, or global for one learning rate everywhere.
        widths: model widths; heads keep their size.
        base_width: width at which the learning rate is meant.
        lr: learning rate at the base width.
        steps: optimizer steps before measuring.
        seeds: models a width.
        out: folder of the figure and the numbers.
    """
    import torch

    from fionalm.report import Line, power_law, save_figure
    from fionalm.scaling import coord_check as check

    build = _builder(model)
    batches = [torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(step)) for step in range(steps)]
    result = check(
        build,
        widths,
        batches,
        parameterization=parameterization,
        optimizer=optimizer,
        alignment=alignment,
        base_lr=lr,
        base_width=base_width,
        steps=steps,
        seeds=seeds,
        quiet=False,
    )
    print(result.table())
    panels: dict[str, list[Any]] = {}
    for row in result.rows:
        if row.quantity in ("activation", "change", "update"):
            panels.setdefault(row.quantity, []).append(Line(row.layer, result.widths, row.rms))
    chart = power_law(panels, x_label="width", y_label=f"RMS after {steps} steps")
    path = save_figure(chart, out, "coord-check", f"{model}, {parameterization}, {optimizer}, alignment {alignment}.")
    print(f"figure: {path.resolve()}")


def lr_transfer(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008 (tyro's way of flat options)
    widths: tuple[int, ...] = (32, 64, 128, 256),
    lrs: tuple[float, ...] = tuple(2.0**power for power in range(-10, -3)),
    seeds: int = 3,
    parameterization: str = "standard",
    alignment: str = "full",
    base_width: int = 64,
    out: Path = Path("runs/lr-transfer"),
    executor: Executor = "local",
    workers: int | None = None,
) -> None:
    """Find the best learning rate at each width; the same command resumes, finished runs are kept.

    Args:
        config: the run that is scaled.
        widths: model widths; heads keep their size.
        lrs: learning rates at the base width.
        seeds: runs of each.
        parameterization: standard, ntk, mup or mfp.
        alignment: full, none, or global for one learning rate everywhere.
        base_width: width at which learning rates are meant.
        out: folder of the figure and the numbers.
        executor: local processes, or ray.
        workers: runs at once; default: one a core.
    """
    import json

    from fionalm.paths import atomic_write_text
    from fionalm.report import Line, loss_against_lr, save_figure
    from fionalm.scaling.config import ParameterizationConfig
    from fionalm.sweeps import lr_transfer as sweep
    from fionalm.sweeps.optimum import mean_over_seeds

    chosen = ParameterizationConfig(name=parameterization, alignment=alignment, base_width=base_width)  # pyright: ignore[reportArgumentType]
    base = replace(config, parameterization=chosen)
    result = sweep(base, widths, lrs, range(seeds), executor=executor, workers=workers)
    for width in result.widths:
        best = result.best_lr(width)
        print(f"width {width:>6}: best learning rate {best.estimate:.3g} [{best.low:.3g}, {best.high:.3g}]")
    slope = result.slope()
    print(
        f"slope of log best learning rate against log width: {slope.estimate:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
    )
    if result.edge_widths:
        print(
            f"the best is an end of the grid at widths {result.edge_widths}: sweep further before believing the slope"
        )
    lines = [
        Line(f"width {width}", result.lrs, mean_over_seeds(result.clipped[row]))
        for row, width in enumerate(result.widths)
    ]
    atomic_write_text(out / "lr-transfer-result.json", json.dumps(result.to_dict(), indent=2) + "\n")
    path = save_figure(loss_against_lr(lines), out, "lr-transfer", f"{parameterization}, alignment {alignment}.")
    print(f"figure: {path.resolve()}")


def stability(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008 (tyro's way of flat options)
    model: Path | None = None,
    lrs: tuple[float, ...] = HALF_DECADES,
    seeds: int = 3,
    out: Path = Path("runs/stability"),
    executor: Executor = "local",
    workers: int | None = None,
) -> None:
    """Sweep learning rates for your model and data: learning-rate sensitivity, and where it diverges.

    Args:
        config: the run that is swept.
        model: Llama-family folder or config.json whose shape replaces the configuration's model.
        lrs: learning rates; the paper's half-decades by default.
        seeds: runs of each.
        out: folder of the figure and the numbers.
        executor: local processes, or ray.
        workers: runs at once; default: one a core.
    """
    import json

    from fionalm.paths import atomic_write_text
    from fionalm.report import Line, loss_against_lr, save_figure
    from fionalm.sweeps import stability_sweep
    from fionalm.sweeps.optimum import mean_over_seeds

    base = config if model is None else replace(config, model=_decoder_config(model))
    result = stability_sweep(base, lrs, range(seeds), executor=executor, workers=workers)
    for row, lr in enumerate(result.lrs):
        print(f"learning rate {lr:<8g} final losses {' '.join(f'{loss:.3f}' for loss in result.losses[row])}")
    found = result.sensitivity()
    print(f"learning-rate sensitivity {found.estimate:.3f} nats [{found.low:.3f}, {found.high:.3f}]")
    line = Line("final loss", result.lrs, mean_over_seeds(result.losses.T))
    initial = float(result.initial_losses[0].mean())
    atomic_write_text(out / "stability-result.json", json.dumps(result.to_dict(), indent=2) + "\n")
    path = save_figure(
        loss_against_lr([line], initial_loss=initial), out, "stability", "Final loss against learning rate."
    )
    print(f"figure: {path.resolve()}")


def gamma_search(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008 (tyro's way of flat options)
    trials: int = 64,
    seeds: int = 1,
    executor: Executor = "local",
    workers: int | None = None,
) -> None:
    """Search each layer kind's learning-rate constant at the base width (Everett et al. 2024), with Optuna.

    Args:
        config: the run at the base width.
        trials: sets of constants to try.
        seeds: runs of each set.
        executor: local processes, or ray.
        workers: runs at once; default: one a core.
    """
    from fionalm.sweeps import gamma_search as search

    result = search(config, trials=trials, seeds=range(seeds), executor=executor, workers=workers)
    for layer, gamma in result.gammas.items():
        print(f"{layer:<10} {gamma:.4g}")
    print(f"loss {result.loss:.4f} nats, best of {len(result.trials)} sets")


def _builder(model: str) -> Callable[[int], nn.Module]:
    from fionalm.models import Decoder
    from fionalm.scaling import scale_config

    if model == "decoder":
        config = DecoderConfig(vocab_size=512, d_model=64, n_layers=2, n_heads=4, max_seq_len=64)
        return lambda width: Decoder(scale_config(config, width))
    transformers = require("transformers", "hub")
    if model == "gpt2":
        found = transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    elif model == "llama":
        found = transformers.LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
        )
    elif Path(model).exists():
        found = transformers.AutoConfig.from_pretrained(model)
    else:
        raise choice_error("model", model, (*BUILT_IN, "a folder or config.json"))
    return lambda width: transformers.AutoModelForCausalLM.from_config(scale_config(found, width))


def _decoder_config(path: Path) -> DecoderConfig:
    import json

    from fionalm.models.llama_format import config_from_hugging_face

    file = path / "config.json" if path.is_dir() else path
    try:
        return config_from_hugging_face(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a model's configuration from {file}: {error}") from error
