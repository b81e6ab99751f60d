"""`fiona web serve`: the pages of an environment, for a person's browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fionalm.commands.listening import listen
from fionalm.commands.options import Positional
from fionalm.errors import UserError, choice_error

if TYPE_CHECKING:
    from fionalm.web.serving import Site

CHOICES = ("miniwob", "webshop", "real-estate", "social-media", "map")


def web_serve(
    site: Positional[Annotated[str, tyro.conf.arg(metavar="SITE")]],
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 3000,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    tasks: Annotated[int, tyro.conf.arg(metavar="N")] = 5,
    catalogue: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    products: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    goals: Annotated[str, tyro.conf.arg(metavar="KIND")] = "human",
) -> None:
    """Serve a site's pages on this machine, until Ctrl-C.

    For example: fiona web serve webshop

    Args:
        site: miniwob, webshop, real-estate, social-media or map.
        port: 0 takes a free one and prints it.
        seed: of real-estate, social-media and map: fixes records, markup and tasks.
        tasks: of the same: how many tasks to print, with the address where each begins.
        catalogue: of the shop: a folder with WebShop's data files. None: the generated catalogue.
        products: of the shop: how many. None: all of a folder's, or 1,000.
        goals: of the shop: human or synthetic.
    """
    if site not in CHOICES:
        raise choice_error("site", site, CHOICES)
    if tasks < 0:
        raise UserError(f"--tasks {tasks}: expected 0 or more")
    with listen("127.0.0.1", port) as place:
        from fionalm.web.serving import run_site

        address = f"http://127.0.0.1:{place.getsockname()[1]}/"
        made, said = _make(site, address, seed, tasks, catalogue, products, goals)
        print(said, flush=True)
        run_site(made, place)
    print("stopped")


def _make(
    site: str, address: str, seed: int, tasks: int, catalogue: Path | None, products: int | None, goals: str
) -> tuple[Site, str]:
    """Return a site and what to say of it."""
    if site == "miniwob":
        from fionalm.web.miniwob_site import MiniWobSite

        return MiniWobSite(), f"miniwob is served at {address}; Ctrl-C stops"
    if site == "webshop":
        from fionalm.web.webshop.shop import open_shop
        from fionalm.web.webshop.site import ShopSite

        shop = open_shop(catalogue, n_products=products, goals=goals)
        what = f"{len(shop.catalogue)} products, {len(shop.goals)} goals"
        return ShopSite(shop), f"webshop ({what}) is served at {address}, each time with another goal; Ctrl-C stops"
    from fionalm.web.sites import make_site

    local = make_site(site, seed)
    listed = [f"{address}{task.session}/  {task.instruction}" for task in (local.tasks(tasks) if tasks else [])]
    return local, "\n".join([f"{site} is served at {address}; Ctrl-C stops", *listed])
