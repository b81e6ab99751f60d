"""What the runs of `best-of-n` cost, for `fiona plan`."""

from __future__ import annotations

from dataclasses import replace

from fionalm.models.config import DecoderConfig
from fionalm.models.shapes import SHAPES
from fionalm.studies.best_of_n.runs import SFT, BestOfNStudyConfig, RealConfig
from fionalm.training.workload import Workload


def plan(config: BestOfNStudyConfig) -> list[Workload]:
    """Return the study's runs, for estimates of their cost; at `cluster` Gemma 2B on MATH is among them."""
    found = []
    prompt, answer = config.n_digits + 4, 4 * config.n_digits
    tested = config.test_problems * config.test_samples
    grid = config.grid_problems * config.grid_samples * len(config.temperatures)
    for _ in range(config.seeds):
        pretrained = config.pretraining_steps * config.pretraining_batch
        base = Workload(
            model=_tiny(config),
            seq_len=prompt + answer,
            trained_tokens=pretrained * (prompt + answer),
            sampled_tokens=(tested + grid) * answer,
            prompt_tokens=(config.test_problems + config.grid_problems * len(config.temperatures)) * prompt,
            sample_batch=512,
        )
        found.append(base)
        for method, _ in config.arms():
            drawn = 0 if method == SFT else config.steps * config.batch * config.samples
            learnt = config.steps * config.sft_batch if method == SFT else drawn
            found.append(
                replace(
                    base,
                    trained_tokens=learnt * (prompt + answer),
                    sampled_tokens=(drawn + tested) * answer,
                    prompt_tokens=(config.steps * config.batch + config.test_problems) * prompt,
                    scored_tokens=(tested + (drawn if method == "bon-rl-v" else 0)) * (prompt + answer),
                )
            )
    return found + ([] if config.real is None else _real_workloads(config.real))


def _real_workloads(real: RealConfig) -> list[Workload]:
    model = SHAPES["smollm2-135m" if real.model == "smollm2" else "gemma-2b"]
    prompt = 8 if real.data is None else 200
    tested = Workload(
        model=model,
        seq_len=prompt + real.max_tokens,
        sampled_tokens=real.test_problems * real.test_samples * real.max_tokens,
        prompt_tokens=real.test_problems * prompt,
        sample_batch=real.sample_batch,
        micro_batch_tokens=real.micro_batch_tokens,
        trained_share=0.01 if real.lora_rank else 1.0,
        strategy="ddp" if real.lora_rank else "fsdp2",
    )
    drawn = real.steps * real.batch * real.samples
    trained = replace(
        tested,
        trained_tokens=drawn * (prompt + real.max_tokens),
        sampled_tokens=tested.sampled_tokens + drawn * real.max_tokens,
        prompt_tokens=tested.prompt_tokens + real.steps * real.batch * prompt,
    )
    return [tested, trained, trained]


def _tiny(config: BestOfNStudyConfig) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=16,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=max(1, config.d_model // 16),
        max_seq_len=40,
        positions="learned",
        norm="rmsnorm",
        mlp="silu_gated",
    )
