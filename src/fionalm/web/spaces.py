"""Gymnasium's spaces of actions and observations."""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
import numpy as np

from fionalm.web.actions import KINDS
from fionalm.web.keys import KEYS

FIRST_REF, LAST_REF = -1024, 4095
LONGEST = 1 << 20
SAMPLED = 16


class UnicodeText(gym.spaces.Text):
    """Any text: Gymnasium's own space knows no Unicode. Samples are short and printable."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(LONGEST, min_length=0, charset=string.printable[:95], seed=seed)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a string that is not endless."""
        return isinstance(x, str) and len(x) <= LONGEST

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a short random string."""
        length = int(self.np_random.integers(0, SAMPLED + 1))
        return "".join(self.np_random.choice(self.character_list, size=length))

    def __repr__(self) -> str:
        return "UnicodeText()"


def action_space(size: tuple[int, int]) -> gym.spaces.Dict:
    """Return the space of actions on a page of `size`; `by` is 0 for refs and 1 for coordinates."""
    width, height = size
    refs = {"start": FIRST_REF, "n": LAST_REF - FIRST_REF + 1}
    discrete: Any = gym.spaces.Discrete
    return gym.spaces.Dict(
        {
            "kind": discrete(len(KINDS)),
            "by": discrete(2),
            "ref": discrete(**refs),
            "to_ref": discrete(**refs),
            "x": discrete(width),
            "y": discrete(height),
            "to_x": discrete(width),
            "to_y": discrete(height),
            "text": UnicodeText(),
            "key": discrete(len(KEYS)),
            "dx": discrete(401, start=-200),
            "dy": discrete(401, start=-200),
            "clear": discrete(2),
        }
    )


def node_space() -> gym.spaces.Dict:
    """Return the space of one node of the DOM."""
    refs = gym.spaces.Discrete(1 << 32, start=-(1 << 31))
    text = {name: UnicodeText() for name in ("tag", "text", "value", "id", "classes", "color", "background")}
    flags = {name: gym.spaces.Discrete(2) for name in ("focused", "checked", "disabled")}
    box = gym.spaces.Box(-1e6, 1e6, (4,), np.float32)
    return gym.spaces.Dict({"ref": refs, "parent": refs, "bbox": box, "attributes": pairs_space(), **text, **flags})


def pairs_space() -> gym.spaces.Sequence:
    """Return the space of pairs of texts."""
    return gym.spaces.Sequence(gym.spaces.Tuple((UnicodeText(), UnicodeText())))


def observation_space(size: tuple[int, int], screenshot: bool) -> gym.spaces.Dict:
    """Return the space of observations; `size` is the screenshot's."""
    space: dict[str, gym.Space] = {
        "utterance": UnicodeText(),
        "fields": pairs_space(),
        "dom": gym.spaces.Sequence(node_space()),
    }
    if screenshot:
        space["screenshot"] = gym.spaces.Box(0, 255, (size[1], size[0], 3), np.uint8)
    return gym.spaces.Dict(space)
