"""Agents in a browser: the pool of pages, environments, observations, actions, oracles and agents.

Importing this room registers the Gymnasium ids `fiona/...` (which imports Gymnasium, where it is installed, and nothing
heavier); everything else is imported when it is first used.
"""

import importlib.util as _util

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

if _util.find_spec("gymnasium") is not None:
    from fionalm.web.registration import register_all as _register_all

    _register_all()
