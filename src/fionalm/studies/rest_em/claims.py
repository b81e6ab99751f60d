"""The claims of Singh et al. 2023 that `rest-em` measures, fixed before the run.

Every interval is over seeds: each has a base model of its own, its own problems and its own samples. Rewards are shares
of solved test problems; pass@1 is greedy.
"""

from __future__ import annotations

from fionalm.report.claims import Claim

TASKS = {"words": "arithmetic word problems", "code": "small Python functions"}

CLAIMS = (
    *(
        Claim(
            f"iterations-improve-{task}",
            f"Each of three iterations raises greedy pass@1 over the base model's, on {title}.",
            "Figures 2 and 3: every iteration on MATH, and the first ones on APPS, are above the base model",
            "test pass@1 after iteration 1, 2 or 3 less the base model's, at the iteration where it is smallest",
            "greater",
            0.0,
        )
        for task, title in TASKS.items()
    ),
    Claim(
        "iterating-beats-once",
        "Several iterations beat one iteration with as many samples in total.",
        "section 5: 41.9 against 40.3 on MATH",
        "test pass@1 on word problems after three iterations less that after one with three times the samples",
        "greater",
        0.0,
        paper_effect=0.016,
    ),
    Claim(
        "beats-human",
        "ReST-EM beats fine-tuning on as many human solutions.",
        "section 5: model-written solutions beat human ones on the same number of MATH problems",
        "test pass@1 on word problems after three iterations less that of the base model fine-tuned on as many "
        "solutions by the generator's writers",
        "greater",
        0.0,
    ),
    Claim(
        "every-k-improves",
        "Pass@k improves at every k.",
        "section 5: pass@K curves lie above the base model's at every K",
        "smallest gain of test pass@k on word problems over the ks, samples at temperature 1 and top-p 0.95",
        "greater",
        0.0,
    ),
    Claim(
        "gain-largest-at-one",
        "The gain is largest at k = 1.",
        "section 5: the difference is largest for K = 1",
        "gain of test pass@1 on word problems less the largest gain of pass@k over k > 1",
        "greater",
        0.0,
    ),
    Claim(
        "majority-improves",
        "Majority votes improve.",
        "section 5: 44.02 to 48.82 with 64 votes on MATH",
        "accuracy of the majority of all samples on test word problems after three iterations less the base model's",
        "greater",
        0.0,
        paper_effect=0.048,
    ),
    *(
        Claim(
            f"restart-keeps-related-{task}",
            f"Restarting from the base model keeps related tasks better than continuing, after {title}.",
            "section 5: ReST-EM transfers to HumanEval better than ReST, which continues from the last policy",
            "pass@1 on related tasks that training left out, after three iterations that each start from the base, "
            "less that after three that continue",
            "greater",
            0.0,
        )
        for task, title in TASKS.items()
    ),
    Claim(
        "code-overfits",
        "Too many iterations on the small code set overfit.",
        "section 5: on APPS test performance regresses after the first iteration",
        "test pass@1 on functions after the first iteration less that after the last of six",
        "greater",
        0.0,
    ),
    Claim(
        "code-gap-grows",
        "While they do, the reward on the training problems rises above that on the test problems.",
        "section 5: train reward grows linearly with iterations, test reward does not",
        "train less test pass@1 on functions after the last iteration, less the same after the first",
        "greater",
        0.0,
    ),
)
