"""A page of the shop as a picture: its texts from top to bottom, buttons and options as boxes."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from typing import Any

import numpy as np

from fionalm.errors import require
from fionalm.web.webshop.pages import Part, visible

WIDTH, HEIGHT = 640, 800
LINE, MARGIN, SIZE = 20, 12, 14
INK, PAPER, BUTTON, LINK, CHOSEN = "#1c2430", "#ffffff", "#d8e8ff", "#1f4f9c", "#ffd58a"


def draw(parts: list[Part]) -> np.ndarray:
    """Return a drawing, uint8 [HEIGHT, WIDTH, 3]; what does not fit is cut off at the bottom.

    Raises:
        UserError: the extra `web` is missing.
    """
    image_module, drawing = require("PIL.Image", "web"), require("PIL.ImageDraw", "web")
    image = image_module.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = drawing.Draw(image)
    x, y = MARGIN, MARGIN
    for part in visible(parts):
        if y > HEIGHT:
            break
        if part.kind in ("button", "option"):
            width = int(pen.textlength(part.text, font=_font())) + 2 * MARGIN
            if x + width > WIDTH - MARGIN and x > MARGIN:
                x, y = MARGIN, y + LINE + 8
            pen.rounded_rectangle((x, y, x + width, y + LINE + 4), 4, CHOSEN if part.chosen else BUTTON, LINK)
            pen.text((x + MARGIN, y + 3), part.text, INK, _font())
            x += width + 8
            continue
        if x > MARGIN:
            x, y = MARGIN, y + LINE + 10
        for line in textwrap.wrap(part.text, 84):
            pen.text((x, y), line, LINK if part.kind == "link" else INK, _font())
            y += LINE
    return np.asarray(image)


@lru_cache(maxsize=1)
def _font() -> Any:
    return require("PIL.ImageFont", "web").load_default(SIZE)
