"""What the tests over all pages share: comparing observations, and actions drawn from what a page shows."""

from __future__ import annotations

import random
import re

import numpy as np

from fionalm.web import Action, Node, Observation


def difference(one: Observation, other: Observation) -> str:
    """Return the first difference between two observations, or an empty string."""
    if one["utterance"] != other["utterance"] or one["fields"] != other["fields"]:
        return f"{one['utterance']!r} against {other['utterance']!r}"
    if len(one["dom"]) != len(other["dom"]):
        return f"{len(one['dom'])} nodes against {len(other['dom'])}"
    for left, right in zip(one["dom"], other["dom"], strict=True):
        for key, value in left.items():
            if not np.array_equal(value, right[key]) if key == "bbox" else value != right[key]:  # type: ignore[literal-required]
                return f"{key} of ref {left['ref']} <{left['tag']}>: {value!r} against {right[key]!r}"  # type: ignore[literal-required]
    return ""


def targets(observation: Observation) -> list[Node]:
    """Return what is likely to be meant: elements that the instruction names, then what can be clicked."""
    named = set(re.findall(r"[\w./-]+", observation["utterance"]))
    nodes = [node for node in observation["dom"] if node["ref"] > 0 and node["tag"] not in ("body", "option")]
    texts = [node for node in nodes if node["text"] and set(re.findall(r"[\w./-]+", node["text"])) <= named]
    active = [node for node in nodes if node["tag"] in ("button", "input", "a", "textarea", "select", "circle", "rect")]
    return texts or active or nodes


def drawn_action(rng: random.Random, observation: Observation) -> Action:
    """Return a random action on what a page shows."""
    nodes = [node for node in observation["dom"] if node["ref"] > 0 and node["tag"] != "body"]
    chance = rng.random()
    if not nodes or chance < 0.15:
        return Action("click", x=rng.uniform(0, 160), y=rng.uniform(50, 210))
    node = rng.choice(targets(observation) if chance < 0.6 else nodes)
    if node["tag"] in ("input", "textarea") and rng.random() < 0.7:
        return Action("type", ref=node["ref"], text=rng.choice(["ab 1", "7", "Zoe"]))
    if chance > 0.9:
        return Action("drag", ref=node["ref"], to_x=rng.uniform(5, 155), to_y=rng.uniform(55, 205))
    return Action("click", ref=node["ref"])
