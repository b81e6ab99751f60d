"""What an agent sees: the instruction, its fields, the DOM as a list of nodes in document order, and a screenshot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

Attributes = tuple[tuple[str, str], ...]


class Node(TypedDict):
    """An element that is drawn, or a text beside other elements (tag `t`, a negative ref)."""

    ref: int
    """names the node in actions; stays the same within an episode"""
    parent: int
    """the parent's ref, 0 for the body"""
    tag: str
    text: str
    """the text of an element that holds nothing else"""
    value: str
    id: str
    classes: str
    focused: int
    checked: int
    """of a checkbox, a radio button or an option"""
    disabled: int
    bbox: np.ndarray
    """left, top, width and height in pixels of the page: [4], float32"""
    color: str
    background: str
    """colours as CSS computes them, such as rgb(255, 0, 0)"""
    attributes: Attributes
    """more attributes, chosen: see page.js"""


class Observation(TypedDict):
    """What `reset` and `step` return."""

    utterance: str
    fields: Attributes
    dom: tuple[Node, ...]
    screenshot: NotRequired[np.ndarray]
    """[height, width, 3], uint8"""


FLAGS = ("focused", "checked", "disabled")


def read_nodes(rows: Sequence[Sequence[Any]]) -> tuple[Node, ...]:
    """Turn page.js's rows into nodes."""
    if not rows:
        return ()
    boxes = np.array([row[10:14] for row in rows], dtype=np.float32)
    return tuple(
        {
            "ref": row[0],
            "parent": row[1],
            "tag": row[2],
            "text": row[3],
            "value": row[4],
            "id": row[5],
            "classes": row[6],
            "focused": row[7],
            "checked": row[8],
            "disabled": row[9],
            "bbox": box,
            "color": row[14],
            "background": row[15],
            "attributes": tuple((name, value) for name, value in row[16]),
        }
        for row, box in zip(rows, boxes, strict=True)
    )


def read_screenshot(png: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a PNG into RGB of `size` (width, height): [height, width, 3], uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    width, height = size
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    whole = np.zeros((height, width, 3), np.uint8)
    rows, columns = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    whole[:rows, :columns] = pixels[:rows, :columns]
    return whole


def children_of(nodes: Sequence[Node]) -> dict[int, list[Node]]:
    """Return the nodes under each ref, 0 for the roots."""
    found: dict[int, list[Node]] = {}
    for node in nodes:
        found.setdefault(node["parent"], []).append(node)
    return found
