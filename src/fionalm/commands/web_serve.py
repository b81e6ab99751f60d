"""`fiona web serve`: the pages of an environment, for a person's browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from fionalm.commands.listening import listen
from fionalm.commands.options import Positional
from fionalm.errors import choice_error

SITES = ("webshop",)


def web_serve(
    site: Positional[Annotated[str, tyro.conf.arg(metavar="SITE")]],
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 3000,
    catalogue: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    products: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    goals: Annotated[str, tyro.conf.arg(metavar="KIND")] = "human",
) -> None:
    """Serve a site's pages on this machine, until Ctrl-C.

    For example: fiona web serve webshop

    Args:
        site: webshop.
        port: 0 takes a free one and prints it.
        catalogue: of the shop: a folder with WebShop's data files. None: the generated catalogue.
        products: of the shop: how many. None: all of a folder's, or 1,000.
        goals: of the shop: human or synthetic.
    """
    if site not in SITES:
        raise choice_error("site", site, SITES)
    with listen("127.0.0.1", port) as place:
        from fionalm.web.serving import run_site
        from fionalm.web.webshop.shop import open_shop
        from fionalm.web.webshop.site import ShopSite

        shop = open_shop(catalogue, n_products=products, goals=goals)
        address = f"http://127.0.0.1:{place.getsockname()[1]}/"
        what = f"{len(shop.catalogue)} products, {len(shop.goals)} goals"
        print(f"{site} ({what}) is served at {address}, each time with another goal; Ctrl-C stops", flush=True)
        run_site(ShopSite(shop), place)
    print("stopped")
