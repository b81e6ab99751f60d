"""WebShop: a shop to buy in by text or by HTML, with goals and a reward, and pages for people.

    env = gymnasium.make("fiona/webshop-v0", observation_mode="text", split="train")

`generate_catalogue` makes the products (`load_catalogue` reads the original's files), `make_goals` the tasks.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
