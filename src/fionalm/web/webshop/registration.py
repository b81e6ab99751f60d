"""The Gymnasium id of the shop: `fiona/webshop-v0`."""

from __future__ import annotations

STEP_LIMIT = 100
"""The step limit of the original's baselines."""


def register_webshop() -> None:
    """Register the environment once; its module is imported when one is made."""
    from gymnasium.envs.registration import register, registry

    if "fiona/webshop-v0" not in registry:
        register(
            id="fiona/webshop-v0",
            entry_point="fionalm.web.webshop.environment:WebShopEnv",
            max_episode_steps=STEP_LIMIT,
        )
