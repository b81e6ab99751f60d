"""Three websites that run on this machine: real estate, social media and a map, with tasks and their scoring.

site = make_site("real-estate", seed=0)
task = site.tasks(20)[0]
site.respond(f"/{task.session}/", {})          # or served over HTTP: fiona web serve real-estate
site.score(task).share
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
