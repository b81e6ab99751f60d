"""How far a policy is from its reference, by its own samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fionalm.objectives import kl_estimate
from fionalm.posttraining.batches import Example, collate, length_buckets
from fionalm.posttraining.forward import token_logps
from fionalm.posttraining.policy import Policy, Reference
from fionalm.sampling.types import SamplingParams, sample_seed
from fionalm.training.distributed import World

TOKENS_AT_ONCE = 8192


@torch.no_grad()
def sampled_kl(
    policy: Policy,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    world: World | None = None,
) -> float:
    """Return KL(policy || reference) over completions, in nats, from `params.n` samples of each prompt.

    The sum over a completion's tokens of Schulman's k3 (2020): unbiased where completions are whole, never below 0.
    Draws are at temperature 1 without truncation, whatever `params` says of them.

    Args:
        policy: drawn from.
        reference: of `Policy.reference`.
        prompts: as token ids.
        params: number, longest length and seed of the samples.
        world: the processes, all of which call this and share the prompts; None: this one.
    """
    world = world or World(policy.device)
    plain = SamplingParams(n=params.n, max_tokens=params.max_tokens)
    mine = range(world.rank, len(prompts), world.size)
    seeds = [[sample_seed(params.seed, prompt, sample) for sample in range(params.n)] for prompt in mine]
    total = count = 0.0
    with policy.whole():
        drawn = policy.sampler().sample([list(prompts[index]) for index in mine], plain, seeds=seeds)
        examples = [
            Example(tuple(prompts[index]), tuple(completion.token_ids))
            for index, completions in zip(mine, drawn, strict=True)
            for completion in completions
            if completion.token_ids
        ]
        count = float(len(examples))
        for group in length_buckets([example.length for example in examples], TOKENS_AT_ONCE):
            batch = collate([examples[index] for index in group], policy.tokenizer.pad_id, policy.device)
            logps = token_logps(policy.model, batch.input_ids, mask=batch.completion_mask)
            total += float(kl_estimate(logps, reference(batch), "k3").double().sum())
    total, count = world.sum(torch.tensor([total, count], dtype=torch.float64, device=world.device)).tolist()
    return total / max(1.0, count)
