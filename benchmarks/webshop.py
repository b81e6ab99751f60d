"""WebShop: steps a second on one core in each observation mode, and the time from nothing to the first observation.

    python benchmarks/webshop.py

There is no peer in the run: the original needs Java, a Lucene index and a spaCy model. Its targets are absolute: over
1,000 steps a second in text mode, a start under 3 seconds in a fresh process. A walk is that of a customer who searches
for a goal's own words and clicks at random, so that nearly every search is a new one; it goes through `gymnasium.make`
with all of its wrappers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time

import gymnasium as gym

import fionalm.web  # noqa: F401 (registers the ids)
from fionalm.web.webshop import ShopExpert

MODES = ("text", "text_rich", "html", "url")
STEPS_TARGET, START_TARGET = 1000.0, 3.0
START = (
    "import time; t = time.perf_counter(); import gymnasium, fionalm.web; "
    "gymnasium.make('fiona/webshop-v0').reset(seed=0); print(time.perf_counter() - t)"
)


def walk(mode: str, steps: int, seed: int) -> float:
    """Return the steps a second of a random customer; choosing actions is not timed."""
    env = gym.make("fiona/webshop-v0", observation_mode=mode)
    generator = random.Random(seed)
    seconds, done = 0.0, True
    info: dict = {}
    for number in range(steps):
        if done:
            _, info = env.reset(seed=seed * steps + number)
        actions = info["available_actions"]
        action = f"search[{info['instruction'].split(', and price')[0]}]"
        if not actions["has_search_bar"]:
            action = f"click[{generator.choice(actions['clickables'])}]"
        started = time.perf_counter()
        _, _, terminated, truncated, info = env.step(action)
        seconds += time.perf_counter() - started
        done = terminated or truncated
    return steps / seconds


def expert(episodes: int) -> tuple[float, float, float]:
    """Return the scripted customer's steps a second, its mean reward and its success over the first test goals."""
    env = gym.make("fiona/webshop-v0", observation_mode="text_rich", split="test")
    steps, rewards, started = 0, [], time.perf_counter()
    for goal in range(episodes):
        observation, _ = env.reset(options={"goal": goal})
        customer, reward, over = ShopExpert(), 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(customer.act(observation))
            over, steps = terminated or truncated, steps + 1
        rewards.append(float(reward))
    success = sum(reward == 1.0 for reward in rewards) / episodes
    return steps / (time.perf_counter() - started), sum(rewards) / episodes, success


def main() -> int:
    """Print the numbers beside their targets; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of each walk")
    parser.add_argument("--repeats", type=int, default=3, help="walks of each mode, and starts")
    parser.add_argument("--episodes", type=int, default=200, help="of the scripted customer")
    arguments = parser.parse_args()
    starts = [
        float(subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True).stdout)
        for _ in range(arguments.repeats)
    ]
    start = statistics.median(starts)
    print(f"start to first observation   {start:6.2f} s       target under {START_TARGET:.0f}")
    rates = {}
    for mode in MODES:
        rates[mode] = statistics.median(walk(mode, arguments.steps, seed) for seed in range(arguments.repeats))
        target = f"       target over {STEPS_TARGET:.0f}" if mode == "text" else ""
        print(f"{mode:<10} steps a second    {rates[mode]:8,.0f}{target}")
    rate, score, success = expert(arguments.episodes)
    result = f"score {100 * score:.1f}, success {success:.1%}"
    print(f"scripted customer: {rate:,.0f} steps a second with its own thinking; {result}")
    return int(rates["text"] <= STEPS_TARGET or start >= START_TARGET)


if __name__ == "__main__":
    sys.exit(main())
