"""The claims of Chow et al. 2024 that `best-of-n` measures, fixed before the run.

All effects are per seed (one base model and everything trained from it, on the same test problems), and intervals are
over seeds. `pass@N` is the unbiased estimate over test problems at temperature 1. N is 32, or the largest that a
smaller scale trains for.
"""

from __future__ import annotations

from fionalm.report.claims import Claim

FLAT = 0.02
"""What counts as flat, as a share of problems."""

CLAIMS = (
    Claim(
        "rl-raises-pass1",
        "Standard RL (N = 1) raises pass@1.",
        "RL with N = 1 trains for one sample",
        "pass@1 of REINFORCE less pass@1 of the base",
        "greater",
        0.0,
    ),
    Claim(
        "rl-no-gain-at-32",
        "Standard RL (N = 1) lowers pass@32 or leaves it flat.",
        "HumanEval pass@16: 61.6 before, 59.8 after RL with N = 1",
        f"pass@32 of REINFORCE less pass@32 of the base; up to {FLAT} counts as flat",
        "less",
        FLAT,
    ),
    Claim(
        "sft-raises-pass1",
        "Supervised fine-tuning (N = 1) on its own right samples raises pass@1.",
        "SFT trains for one sample",
        "pass@1 of SFT less pass@1 of the base",
        "greater",
        0.0,
    ),
    Claim(
        "sft-no-gain-at-32",
        "Supervised fine-tuning (N = 1) lowers pass@32 or leaves it flat.",
        "standard SFT hurts best-of-N",
        f"pass@32 of SFT less pass@32 of the base; up to {FLAT} counts as flat",
        "less",
        FLAT,
    ),
    *(
        Claim(
            f"{method}-over-{against}",
            f"{title} raises pass@32 over {what}.",
            paper,
            f"pass@32 of {title} trained for N' = 32 less pass@32 of {what}",
            "greater",
            0.0,
            paper_effect=effect,
        )
        for method, title, against, what, paper, effect in (
            ("bon-rlb-p", "BoN-RLB(P)", "base", "the base", "HumanEval pass@16: 61.6 to 67.1", None),
            ("bon-rlb-p", "BoN-RLB(P)", "rl", "RL with N = 1", "HumanEval pass@16: 67.1 against 59.8", None),
            ("bon-rl-s", "BoN-RL-S", "base", "the base", "MATH pass@32: 60.0 to 67.0", 0.07),
            ("bon-rl-s", "BoN-RL-S", "rl", "RL with N = 1", "standard RL hurts best-of-N, BoN-RL-S raises it", None),
        )
    ),
    Claim(
        "bon-rl-v-raises-bo32",
        "BoN-RL-V raises best-of-32 accuracy under its verifier.",
        "MATH Bo32: 26.8 to 30.8",
        "accuracy of the sample that the learned verifier picks among 32: BoN-RL-V trained for N' = 32 less base",
        "greater",
        0.0,
        paper_effect=0.04,
    ),
    Claim(
        "matched-is-best",
        "Training for the N that is used at test time is best at each N.",
        "matching train N' to test N works best",
        "lowest, over N, of pass@N of BoN-RLB(P) trained for N' = N less the best pass@N of another N' "
        "(N' = 1 is REINFORCE); margin 0.01 fixed before",
        "greater",
        -0.01,
    ),
    Claim(
        "matched-beats-mismatched",
        "On average over N, a matched N' is better than a mismatched one.",
        "matching train N' to test N works best",
        "mean over N of pass@N of BoN-RLB(P) trained for N' = N less the mean pass@N of the other N'",
        "greater",
        0.0,
    ),
    Claim(
        "keeps-entropy",
        "BoN-aware training keeps more entropy in its responses than RL with N = 1.",
        "BoN-aware models explore more than those of standard RL",
        "entropy of a response to a test problem: BoN-RLB(P) trained for N' = 32 less REINFORCE",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "keeps-distinct-solutions",
        "BoN-aware training finds more different right solutions.",
        "BoN-aware models explore more than those of standard RL",
        "distinct right solutions among 32 samples of a test problem: BoN-RLB(P) trained for N' = 32 less REINFORCE",
        "greater",
        0.0,
        unit="solutions",
    ),
    Claim(
        "best-temperature-rises-with-n",
        "The best sampling temperature rises with N.",
        "the best temperature grows with N",
        "slope of the base model's best temperature against log2 N",
        "greater",
        0.0,
        unit="a doubling",
    ),
    Claim(
        "best-temperature-rises-with-difficulty",
        "The best sampling temperature is higher for harder problems.",
        "the best temperature grows with difficulty",
        "best temperature of the base model at the largest N: harder half of the test problems less the easier half",
        "greater",
        0.0,
    ),
    Claim(
        "co-scaling-fits",
        "Temperature and N co-scale as pass@N = exp(a(T) N^b(T)).",
        "pass@N(T) is about exp(a(T) N^b(T))",
        "root mean square error of the fitted law over the grid of T and N, base model",
        "less",
        0.02,
    ),
    Claim(
        "weights-favour-hard-prompts",
        "The gradient weights of BoN-aware training concentrate on hard prompts.",
        "weights N p^(N-1) / (1 - p^N) and N p / (1 - p) grow with the failure rate p",
        "mean pass rate of the training prompts weighted by their absolute gradient weights, in training by "
        "BoN-RLB(P) for N' = 32: its own weights less REINFORCE's for the same samples",
        "less",
        -0.05,
    ),
)
