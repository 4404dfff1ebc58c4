"""Blocks that sections are made of. The template lays them out; nothing else is HTML."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup
from PIL import Image

from lafp.evaluate.images import png
from lafp.report.drawings import Drawing

NO_VALUE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str | Markup
    kind: str = field(default="text", init=False)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The title of a part of a section."""

    text: str
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph that must not be missed: a warning, or how (not) to read a result."""

    text: str | Markup
    level: Literal["warning", "info"] = "info"
    kind: str = field(default="note", init=False)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture with its caption."""

    src: str
    """A data URI."""
    alt: str
    caption: str | Markup = ""
    drawing: Drawing | None = None
    """The drawing behind a chart. Its ground is transparent, and a dark page may invert it."""
    columns: Sequence[str] = ()
    """Labels above equally wide columns of the picture."""
    max_width_px: int | None = None
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures side by side."""

    figures: Sequence[Figure]
    kind: str = field(default="row", init=False)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a head. Cells that start with a digit or a sign are set as numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    caption: str | Markup = ""
    emphasized: frozenset[int] = frozenset()
    """Indices of rows to set in bold."""
    num_text_columns: int = 1
    """So many columns from the left hold text, the others numbers."""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Preformatted text behind a title that opens it."""

    title: str
    body: str
    kind: str = field(default="listing", init=False)


Block = Heading | Text | Note | Figure | Row | Table | Listing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of the report."""

    id: str
    short: str
    """Name in the list of contents."""
    title: str
    blocks: Sequence[Block]


def chart(drawing: Drawing, alt: str, caption: str | Markup = "") -> Figure:
    """Makes a figure at most as wide as it was drawn, so that the type of all charts is equal."""
    return Figure(
        src=_data_uri("image/svg+xml", drawing.svg().encode()),
        alt=alt,
        caption=caption,
        drawing=drawing,
        max_width_px=round(96 * drawing.width_in),
    )


def picture(
    data: bytes,
    alt: str,
    caption: str | Markup = "",
    columns: Sequence[str] = (),
) -> Figure:
    """Makes a figure from the bytes of a PNG or GIF file, at most as large as its pixels."""
    with Image.open(io.BytesIO(data)) as image:
        width_px = image.width
    mime = "image/gif" if data.startswith(b"GIF8") else "image/png"
    return Figure(
        src=_data_uri(mime, data),
        alt=alt,
        caption=caption,
        columns=columns,
        max_width_px=width_px,
    )


def inline_picture(pixels: np.ndarray, alt: str) -> Markup:
    """Makes a small picture for the cell of a table.

    Args:
        pixels: uint8 [H, W, 3].
        alt: Words for what it shows. They also appear under the pointer.
    """
    # The size is given, so that the column is wide enough before the picture is decoded.
    return Markup('<img class="cell" src="{}" alt="{}" title="{}" width="{}" height="{}">').format(
        _data_uri("image/png", png(pixels)), alt, alt, pixels.shape[1], pixels.shape[0]
    )


def _data_uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def anchored(low: float, high: float) -> str:
    """Writes ``τₐ = 0.5``, or ``τₐ in [0, 1]`` where each sample draws its own, on one line."""
    if low == high:
        return f"τₐ{_NBSP}={_NBSP}{low:g}"
    return f"τₐ{_NBSP}in{_NBSP}[{low:g},{_NBSP}{high:g}]"


def percent(share: float) -> str:
    """Writes 0.783 as ``78 %``."""
    return f"{100 * share:.0f}{_NBSP}%"
