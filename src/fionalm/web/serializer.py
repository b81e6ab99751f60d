"""The DOM as the compact HTML that language models read: hidden nodes and empty wrappers dropped, `data-ref` kept.

    <button data-ref="4">ONE</button>

Text is escaped, so that no page's text can pose as an element.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from fionalm.web.observations import Node, children_of

# Kept of what page.js reports; geometry of drawings is, since nothing else tells where they are.
DROPPED = frozenset({"d", "transform", "draggable", "font-size"})
# Elements that mean something with nothing in them.
MEANT = frozenset(
    {"input", "textarea", "select", "option", "button", "a", "img", "canvas", "iframe", "label", "td", "th"}
)
VOID = frozenset({"input", "img", "br", "hr", "col", "area"})
INDENT = " "


def to_html(
    nodes: Sequence[Node],
    *,
    refs: bool = True,
    classes: bool = True,
    drop: Collection[str] = DROPPED,
    keep_wrappers: bool = False,
    longest: int = 200,
    indent: bool = False,
) -> str:
    """Return the nodes as HTML.

    Args:
        nodes: an observation's `dom`, or a part of it.
        refs: whether elements carry `data-ref`, by which actions name them.
        classes: whether elements carry their class.
        drop: attributes that are left out.
        keep_wrappers: whether elements are kept that hold one element, no text, and mean nothing themselves.
        longest: characters that a text or an attribute's value is cut at.
        indent: one element a line, indented; otherwise all in one line.
    """
    known = {node["ref"] for node in nodes}
    # A part of the DOM has roots whose parents are elsewhere.
    roots = [node for node in nodes if node["parent"] not in known]
    below = children_of(nodes)
    parts: list[str] = []

    def cut(text: str) -> str:
        return text if len(text) <= longest else text[: longest - 1] + "…"

    def attributes(node: Node) -> str:
        given: dict[str, str] = {}
        if refs:
            given["data-ref"] = str(node["ref"])
        if node["id"]:
            given["id"] = node["id"]
        if classes and node["classes"].strip():
            given["class"] = " ".join(node["classes"].split())
        given |= {name: value for name, value in node["attributes"] if name not in drop and name not in given}
        if node["value"] and node["tag"] in ("input", "select"):
            given["value"] = node["value"]
        text = "".join(f' {name}="{escape(cut(value))}"' for name, value in given.items())
        for flag, word in (("checked", "selected" if node["tag"] == "option" else "checked"), ("disabled", "disabled")):
            if node[flag]:
                text += f" {word}"
        return text + (" focused" if node["focused"] else "")

    def write(node: Node, depth: int) -> None:
        pad, end = (INDENT * depth, "\n") if indent else ("", "")
        inside = below.get(node["ref"], [])
        tag, text = node["tag"], node["value"] if node["tag"] == "textarea" else node["text"]
        if tag == "t":
            parts.append(f"{pad}{escape(cut(text), quote=False)}{end}")
            return
        wrapper = tag not in MEANT and not text and not node["id"] and not node["focused"] and not node["attributes"]
        if wrapper and not keep_wrappers and len(inside) < 2 and node["parent"] in known:
            # An empty one says nothing, and one around a single element no more than the element.
            if inside and not (classes and node["classes"].strip()):
                write(inside[0], depth)
                return
            if not inside and not node["classes"].strip():
                return
        opening = f"{pad}<{tag}{attributes(node)}>"
        if tag in VOID:
            parts.append(opening + end)
        elif not inside:
            parts.append(f"{opening}{escape(cut(text), quote=False)}</{tag}>{end}")
        else:
            parts.append(opening + end)
            for child in inside:
                write(child, depth + 1)
            parts.append(f"{pad}</{tag}>{end}")

    for root in roots:
        write(root, 0)
    return "".join(parts).strip()
