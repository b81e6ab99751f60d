"""The Gymnasium ids of the web environments, made known by `import fionalm.web`."""

from __future__ import annotations

from fionalm.web.miniwob import MINIWOB_TASKS
from fionalm.web.webshop.registration import register_webshop

# What these pages show after a while, or how far a thing has moved, follows the clock.
REAL_TIME = frozenset[str]()


def register_all() -> None:
    """Register every environment once. The environments' own modules are imported when one is made."""
    from gymnasium.envs.registration import register, registry

    for task in MINIWOB_TASKS:
        name = f"fiona/miniwob.{task}-v0"
        if name not in registry:
            register(
                id=name,
                entry_point="fionalm.web.environment:MiniWobEnv",
                vector_entry_point="fionalm.web.vector:MiniWobVectorEnv",
                kwargs={"task": task},
                nondeterministic=task in REAL_TIME,
            )
    register_webshop()
