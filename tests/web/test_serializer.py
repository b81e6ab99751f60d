"""The compact HTML: what is kept, what is dropped, and that no text of a page can pose as an element."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fionalm.web import to_html
from fionalm.web.observations import Node


def node(ref: int, parent: int, tag: str, text: str = "", **more: object) -> Node:
    empty = {"value": "", "id": "", "classes": "", "focused": 0, "checked": 0, "disabled": 0}
    rest = {"bbox": np.zeros(4, np.float32), "color": "", "background": "", "attributes": ()}
    return {"ref": ref, "parent": parent, "tag": tag, "text": text, **empty, **rest, **more}  # type: ignore[typeddict-item]


PAGE = (
    node(1, 0, "body"),
    node(2, 1, "div", id="wrap"),
    node(3, 2, "div"),
    node(4, 3, "div", classes=" box  big "),
    node(5, 4, "input", value="Ada", focused=1, attributes=(("type", "text"), ("draggable", "true"))),
    node(6, 4, "input", checked=1, attributes=(("type", "checkbox"),)),
    node(-1, 4, "t", "a < b & c"),
    node(7, 3, "span"),
    node(8, 2, "button", "Go", disabled=1),
)


def test_attributes_refs_and_wrappers() -> None:
    assert to_html(PAGE) == (
        '<body data-ref="1"><div data-ref="2" id="wrap"><div data-ref="3"><div data-ref="4" class="box big">'
        '<input data-ref="5" type="text" value="Ada" focused><input data-ref="6" type="checkbox" checked>'
        'a &lt; b &amp; c</div></div><button data-ref="8" disabled>Go</button></div></body>'
    )
    bare = to_html(PAGE[3:6], refs=False, classes=False, indent=True)
    assert bare == '<div>\n <input type="text" value="Ada" focused>\n <input type="checkbox" checked>\n</div>'
    assert "span" in to_html(PAGE, keep_wrappers=True)
    assert to_html(()) == ""
    assert to_html((node(1, 0, "p", "x" * 300),), longest=10) == f'<p data-ref="1">{"x" * 9}…</p>'
    assert to_html((node(1, 0, "textarea", value="two\nlines"),)) == '<textarea data-ref="1">two\nlines</textarea>'


class Reader(HTMLParser):
    """Reads HTML back into tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text_comes_back_as_text(text: str, identity: str, title: str) -> None:
    nodes = (
        node(1, 0, "div", id="root"),
        node(2, 1, "a", text, id=identity, attributes=(("title", title),)),
        node(-1, 1, "t", text),
        node(3, 1, "input", value=text),
    )
    reader = Reader()
    reader.feed(to_html(nodes))
    reader.close()
    assert [tag for tag, _ in reader.tags] == ["div", "a", "input"]
    assert reader.tags[1][1].get("title") == title
    assert reader.tags[1][1].get("id", "") == identity
    assert (reader.tags[2][1].get("value") or "") == text
    assert reader.text == text.strip("\r") * 2 or reader.text.replace("\r", "") == (text * 2).replace("\r", "")
