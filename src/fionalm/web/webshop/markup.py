"""A page of the shop as HTML: what `html` observations hold and what a person's browser shows, made of the same parts.

The identifiers and classes that agents and scripts look for are the original's (`search_input`, `instruction-text`,
`btn`, `product-link`, radio inputs with `data-url`). Unlike there, nothing is loaded from other hosts, a chosen option
is `checked` in the markup itself, and pictures are drawn by the server.
"""

from __future__ import annotations

import zlib
from html import escape

from fionalm.web.webshop.pages import Page, Part

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>WebShop</title>
<link rel="stylesheet" href="/style.css">
<link rel="icon" href="data:,">
</head>
<body>
<main class="container">
"""
SCRIPT = """<script>
document.querySelectorAll("input[type=radio]").forEach(function (option) {
  option.addEventListener("click", function () { window.location.href = option.dataset.url; });
});
</script>
"""
STYLE = """body { margin: 0; background: #f4f5f7; color: #1c2430; font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 16px; }
#instruction-text { background: #fff8dc; border: 1px solid #e6d690; border-radius: 6px; padding: 8px 14px; }
h1, h2, h3, h4, p { margin: 6px 0; }
h4 { font-weight: 600; }
form { display: inline-block; margin: 8px 8px 8px 0; }
.btn { padding: 7px 14px; border: 1px solid #2b5797; border-radius: 5px; background: #2f66b3; color: #fff;
  font: inherit; cursor: pointer; }
.purchase { background: #b35c00; border-color: #8f4a00; }
.btn:hover, .btn:focus { filter: brightness(1.12); }
#search_input { width: min(560px, 70vw); padding: 7px 10px; font: inherit; border: 1px solid #8894a5;
  border-radius: 5px; }
.card { overflow: hidden; background: #fff; border: 1px solid #dde1e7; border-radius: 6px; margin: 10px 0;
  padding: 12px; }
.result-img { float: left; width: 96px; height: 96px; margin-right: 14px; }
.item-page-img { width: 220px; height: 220px; }
.radio-toolbar label { display: inline-block; padding: 4px 10px; margin: 3px 6px 3px 0; border: 1px solid #8894a5;
  border-radius: 5px; background: #fff; cursor: pointer; }
.radio-toolbar input { position: absolute; opacity: 0; }
.radio-toolbar input:checked + label { background: #d8e8ff; border-color: #2b5797; font-weight: 600; }
.radio-toolbar input:focus-visible + label { outline: 3px solid #2f66b3; }
.stars { color: #b35c00; }
"""


def as_html(parts: list[Part]) -> str:
    """Return a page's HTML document."""
    body: list[str] = []
    options: dict[str, int] = {}
    for part in parts:
        text = escape(part.text)
        url = escape(part.target.url) if part.target else ""
        if part.kind == "markup":
            body.append(part.text)
        elif part.kind == "text":
            element, _, name = part.name.partition(".")
            attribute = f' class="{name}"' if name else ""
            body.append(f"<{element or 'p'}{attribute}>{text}</{element or 'p'}>")
        elif part.kind == "search":
            body.append(
                f'<form id="search-form" role="search" action="{url}"><input id="search_input" name="search_query" '
                'type="text" placeholder="Search..." aria-label="Search" required autofocus>'
            )
        elif part.kind == "button" and part.target:
            name = f" {part.name}" if part.name else ""
            body.append(f'<form action="{url}"><button class="btn{name}" type="submit">{text}</button></form>')
        elif part.kind == "button":
            body.append(f'<button class="btn" type="submit">{text}</button></form>')
        elif part.kind == "link":
            body.append(f'<h4 class="product-asin"><a class="product-link" href="{url}">{text}</a></h4>')
        else:
            number = options[part.name] = options.get(part.name, -1) + 1
            name = escape(part.name)
            checked = " checked" if part.chosen else ""
            body.append(
                f'<input type="radio" id="radio_{name}{number}" name="{name}" value="{text}" data-url="{url}"{checked}>'
                f'<label for="radio_{name}{number}">{text}</label>'
            )
    script = SCRIPT if options else ""
    return f"{HEAD}{chr(10).join(body)}\n</main>\n{script}</body>\n</html>\n"


def picture(asin: str, title: str) -> str:
    """Return a product's picture as SVG: its initials on a colour of its own (the shop has no photographs)."""
    hue = zlib.crc32(asin.encode()) % 360
    initials = escape("".join(word[0] for word in title.split()[:3] if word[0].isalnum()).upper())
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96" width="96" height="96">'
        f'<rect width="96" height="96" fill="hsl({hue} 45% 82%)"/><text x="48" y="58" text-anchor="middle" '
        f'font-family="sans-serif" font-size="30" fill="hsl({hue} 60% 25%)">{initials}</text></svg>'
    )


def picture_part(page: Page, asin: str, title: str) -> Part:
    """Return the markup of a product's picture."""
    name = 'class="result-img"' if page.kind == "search_results" else 'id="product-image" class="item-page-img"'
    return Part("markup", f'<img {name} src="/picture/{escape(asin)}.svg" alt="{escape(title)}">')
