"""MiniWoB episodes a second, against the `miniwob` package's Selenium environment in the same run.

    python benchmarks/miniwob.py --out miniwob.json

Both sides play click-test-2 by clicking the button that is asked for, every episode on another seed: the package's
environment through chromedriver (Debian's package chromium-driver), ours with real input on one page, synthetic events
on four, and with screenshots on both sides on eight. Targets: at least 10, 20 and 5 times the package's rate, a start
under 2 s, and after a thousand episodes the browser's memory (proportional set size) within 10% of its level after 50.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fionalm.web import Action, Browser, MiniWobVectorEnv, WebEnv, miniwob_task
from fionalm.web.chromium import find_chromium

TASK, TEXT = "click-test-2", "ONE"
RATIOS = {"real input, one page": 10.0, "fast mode, four pages": 20.0, "screenshots, eight pages": 5.0}
START, GROWTH = 2.0, 0.10


def package_rate(episodes: int, screenshots: bool) -> float:
    """Return the episodes a second of the package's environment."""
    # Both named, or Selenium looks for them on the network first.
    os.environ["MINIWOB_CHROME_BINARY"] = find_chromium()
    os.environ["MINIWOB_CHROMEDRIVER"] = shutil.which("chromedriver") or "chromedriver"
    from miniwob.environment import MiniWoBEnvironment
    from miniwob.reward import get_raw_reward

    env = MiniWoBEnvironment(subdomain=TASK, reward_processor=get_raw_reward)
    env.set_record_screenshots(screenshots)
    won = 0.0
    for episode in range(-2, episodes):
        if episode == 0:
            won, start = 0.0, time.perf_counter()
        observation, _ = env.reset(seed=episode % 1000)
        ref = next(element["ref"] for element in observation["dom_elements"] if element["text"] == TEXT)
        won += env.step(env.create_action("CLICK_ELEMENT", ref=ref))[1]
    seconds = time.perf_counter() - start
    env.close()
    assert won == episodes, f"the package's environment gave {won} for {episodes} right clicks"
    return episodes / seconds


def right(dom: Sequence[Any]) -> Action:
    """Return the action that the instruction asks for."""
    return Action("click", ref=next(node["ref"] for node in dom if node["text"] == TEXT))


def our_rate(episodes: int, pages: int, **options: Any) -> float:
    """Return the episodes a second of our environment, or of a vector of them."""
    won = 0.0
    if pages == 1:
        env = WebEnv(miniwob_task(TASK), **options)
        for episode in range(-5, episodes):
            if episode == 0:
                won, start = 0.0, time.perf_counter()
            observation, _ = env.reset(seed=episode % 1000)
            won += env.step(right(observation["dom"]))[1]
        seconds, played = time.perf_counter() - start, episodes
        env.close()
    else:
        envs = MiniWobVectorEnv(TASK, pages, autoreset_mode="SameStep", **options)
        observations, _ = envs.reset(seed=0)
        rounds = episodes // pages
        for number in range(-2, rounds):
            if number == 0:
                won, start = 0.0, time.perf_counter()
            observations, rewards, *_ = envs.step([right(dom) for dom in observations["dom"]])
            won += float(rewards.sum())
        seconds, played = time.perf_counter() - start, rounds * pages
        envs.close()
    assert won == played, f"our environment gave {won} for {played} right clicks"
    return played / seconds


def memory_mb(group: int) -> float:
    """Return the proportional set size of a process group."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2]) != group:
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def growth(episodes: int) -> dict[str, float]:
    """Return the browser's memory after 50 episodes and after `episodes`."""
    pool = Browser()
    env = WebEnv(miniwob_task(TASK), browser=pool)
    levels = {}
    for episode in range(1, episodes + 1):
        observation, _ = env.reset(seed=episode)
        env.step(right(observation["dom"]))
        if episode in (50, episodes):
            time.sleep(1)
            levels[f"after {episode}"] = memory_mb(pool.pid)
    pool.close()
    return levels


def start_seconds() -> float:
    """Return how long a new pool takes until its first page is open."""
    began = time.perf_counter()
    pool = Browser()
    pool.run(pool.open_page(miniwob_task(TASK).url))
    seconds = time.perf_counter() - began
    pool.close()
    return seconds


def main() -> bool:
    """Print a table, write JSON, and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of ours a measurement")
    parser.add_argument("--package-episodes", type=int, default=100, help="episodes of the package's a measurement")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    shots = max(80, arguments.episodes // 4)
    theirs = {shot: package_rate(arguments.package_episodes, shot) for shot in (False, True)}
    ours = {
        "real input, one page": our_rate(arguments.episodes, 1),
        "real input, four pages": our_rate(arguments.episodes, 4),
        "fast mode, one page": our_rate(arguments.episodes, 1, fast=True),
        "fast mode, four pages": our_rate(arguments.episodes, 4, fast=True),
        "screenshots, one page": our_rate(shots, 1, screenshot=True),
        "screenshots, eight pages": our_rate(shots, 8, screenshot=True),
        "screenshots, fast mode, eight pages": our_rate(shots, 8, screenshot=True, fast=True),
    }
    print(f"{TASK}, episodes a second; miniwob's environment: {theirs[False]:.1f}, with screenshots {theirs[True]:.1f}")
    met, ratios = True, {}
    for name, rate in ours.items():
        ratios[name] = rate / theirs[name.startswith("screenshots")]
        target = RATIOS.get(name)
        verdict = "" if target is None else f", target {target:g}: {'met' if ratios[name] >= target else 'missed'}"
        met &= target is None or ratios[name] >= target
        print(f"  {name:36} {rate:7.1f}  ratio {ratios[name]:5.1f}{verdict}", flush=True)
    levels, seconds = growth(arguments.episodes), start_seconds()
    before, after = levels.values()
    grown = after / before - 1
    met &= grown <= GROWTH and seconds <= START
    print(f"  start {seconds:.2f} s, target {START:g}: {'met' if seconds <= START else 'missed'}")
    grew = f"{after:.0f} MB {list(levels)[1]}: {grown:+.1%}, at most {GROWTH:.0%}"
    print(f"  memory {before:.0f} MB after 50 episodes, {grew}: {'met' if grown <= GROWTH else 'missed'}")
    if arguments.out:
        result = {"package": {"plain": theirs[False], "screenshots": theirs[True]}, "ours": ours, "ratios": ratios}
        arguments.out.write_text(json.dumps({**result, "memory_mb": levels, "start_seconds": seconds}, indent=2) + "\n")
    return met


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
