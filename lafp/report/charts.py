"""Charts of measured numbers: dots with intervals, and curves. Titles stand beside the curves.

Every function takes numbers and returns a ``Drawing``. Pages embed its SVG as a data URI; documents
get its PNG.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lafp.evaluate.rows.grouped import Group
from lafp.report.drawings import (
    BLUE,
    CHARACTERS_PER_PANEL,
    FAINT,
    INK,
    MUTED,
    PANEL_WIDTH_IN,
    Drawing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND_SHARE = 0.2
"""Room for a name in a legend, as a share of the range of the curves."""
# A gap above a group of dots, in rows.
_GROUP_GAP = 0.55


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot-and-interval plot."""

    title: str
    value: float
    low: float | None = None
    high: float | None = None
    color: str = BLUE
    is_open: bool = False
    """Draw a ring: controls and baselines."""
    starts_group: bool = False
    """Leave a gap above."""
    points: Sequence[float] = ()
    """Single seeds, drawn small."""
    beside: Sequence["Dot"] = ()
    """Others in the same row, without their values, e.g. controls. A legend has their titles."""

    @classmethod
    def of(cls, group: Group, **looks: Any) -> "Dot":
        """Makes the dot of a group: mean, interval and, if there are several, its seeds."""
        low, high = group.interval.low, group.interval.high
        seeds = group.per_seed if len(group.per_seed) > 1 else ()
        return cls(value=group.value, low=low, high=high, points=seeds, **looks)


@dataclass(frozen=True, kw_only=True)
class DotPanel:
    """Dots with intervals, one row each, first row on top, the value written at the right."""

    rows: Sequence[Dot]
    xlabel: str
    """Quantity and unit."""
    title: str = ""
    xlim: tuple[float, float] | None = None
    """Axis range; None fits the data."""
    reference: tuple[float, str] | None = None
    """A vertical line and its title, e.g. the demonstrators' success."""
    form: Callable[[float], str] = "{:z.2f}".format
    """Writes a value."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = BLUE
    is_dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """Lower and upper end of the interval at each x."""
    points: Sequence[Sequence[float]] = ()
    """Single seeds at each x, drawn small."""


def dots(panels: Sequence[DotPanel], num_columns: int = 3, width_in: float = 8.4) -> Drawing:
    """Draws panels of dots. Titles that equal those of the panel at the left are left out.

    Args:
        panels: Panels in reading order.
        num_columns: Largest number of panels side by side.
        width_in: Width of the figure in inches.
    """
    num_columns = min(num_columns, len(panels))
    num_rows = -(-len(panels) // num_columns)
    most = max(
        len(panel.rows) + _GROUP_GAP * sum(row.starts_group for row in panel.rows)
        for panel in panels
    )
    has_titles = any(panel.title or panel.reference for panel in panels)
    others = {dot.title: dot for panel in panels for row in panel.rows for dot in row.beside}

    def paint(axes: list["Axes"]) -> None:
        if others:
            _add_legend(axes[0], list(others.values()))
        for i, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
            _paint_dots(ax, panel)
            titles = [row.title for row in panel.rows]
            if i % num_columns and titles == [row.title for row in panels[i - 1].rows]:
                ax.set_yticklabels([])
        for ax in axes[len(panels) :]:
            ax.set_axis_off()

    height_in = (0.62 + 0.29 * (most + 0.2) + 0.2 * has_titles) * num_rows + 0.3 * bool(others)
    return Drawing(
        width_in=width_in, height_in=height_in, paint=paint, columns=num_columns, rows=num_rows
    )


def _add_legend(ax: "Axes", dots: Sequence[Dot]) -> None:
    """Names the dots that stand beside others, above all panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="", **_mark(dot), label=dot.title) for dot in dots]
    figure: Any = ax.figure
    figure.legend(
        handles=handles, ncols=len(dots), frameon=False, fontsize=8.5, loc="outside upper right"
    )


def _mark(dot: Dot) -> dict[str, Any]:
    face = "white" if dot.is_open else dot.color
    return {"marker": "o", "ms": 6.5, "mfc": face, "mec": dot.color, "mew": 1.4}


def _paint_dots(ax: "Axes", panel: DotPanel) -> None:
    rows = panel.rows
    y = np.arange(len(rows)) + np.cumsum([_GROUP_GAP * row.starts_group for row in rows])
    for row, at in zip(rows, y, strict=True):
        _paint_dot(ax, row, float(at), panel.form(row.value))
    ax.set_yticks(y, [row.title for row in rows])
    ax.tick_params(axis="y", length=0, colors=INK, labelsize=9)
    ax.set_ylim(y[-1] + 0.6, -0.6)
    ax.spines["left"].set_visible(False)
    if panel.xlim:
        ax.set_xlim(*panel.xlim)
    ax.set_xlabel(panel.xlabel)
    ax.set_title(panel.title, pad=18 if panel.reference else 8)
    if panel.reference:
        ax.axvline(panel.reference[0], color=MUTED, lw=0.8, ls=(0, (3, 2)), zorder=0)
        ax.annotate(
            panel.reference[1],
            (panel.reference[0], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=MUTED,
            size=8.5,
        )


def _paint_dot(ax: "Axes", row: Dot, at: float, text: str) -> None:
    ax.axhline(at, color=FAINT, lw=0.5, zorder=0)
    for dot in (*row.beside, row):  # the row's own lies above the others
        if dot.low is not None and dot.high is not None:
            ax.plot([dot.low, dot.high], [at, at], color=dot.color, lw=2.2, alpha=0.55)
        ax.plot(dot.points, [at] * len(dot.points), "|", ms=8, mew=1, color=dot.color, alpha=0.8)
        ax.plot(dot.value, at, **_mark(dot))
    ax.annotate(
        text,
        (1.0, at),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=INK,
    )


def curves(
    panels: Mapping[str, Sequence[Line]],
    *,
    xlabel: str = "optimizer step",
    log_y: Sequence[str] = (),
    xticks: Mapping[float, str] | None = None,
    ylim: tuple[float, float] | None = None,
    height_in: float = 2.1,
    panel_width_in: float = PANEL_WIDTH_IN,
) -> Drawing:
    """Draws small panels of curves, one per title. Equal legends are drawn once.

    Args:
        panels: Title -> curves.
        xlabel: Shared quantity of the x axes.
        log_y: Titles of panels whose y axis is logarithmic if the values fall far enough.
        xticks: Positions of the ticks of the x axes -> labels; None leaves it to the data.
        ylim: Range of the y axes; None fits the data.
        height_in: Height of the figure in inches.
        panel_width_in: Width of a panel in inches.
    """
    titles = [tuple(line.title for line in lines) for lines in panels.values()]
    # Long or many names leave no room inside: the legend then stands beside the panels.
    is_long = sum(map(len, titles[0])) > 2 * CHARACTERS_PER_PANEL
    is_beside = len(set(titles)) == 1 and (len(titles[0]) > 2 or is_long)
    num_panels = max(2, len(panels) + is_beside)

    title_characters = int(CHARACTERS_PER_PANEL * panel_width_in / PANEL_WIDTH_IN)

    def paint(axes: list["Axes"]) -> None:
        for i, (title, lines) in enumerate(panels.items()):
            _paint_curves(axes[i], lines, title in log_y)
            axes[i].set_title(textwrap.fill(title, title_characters))
            axes[i].set_xlabel(xlabel)
            if xticks:
                axes[i].set_xticks(list(xticks), list(xticks.values()))
            axes[i].set_ylim(ylim)
            if not is_beside and len(lines) > 1 and titles.index(titles[i]) == i:
                if len(lines) > 2 and ylim is None and title not in log_y:
                    _make_room_above(axes[i], len(lines))
                axes[i].legend(frameon=False, fontsize=8, handlelength=1.4, borderaxespad=0.2)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        if is_beside:
            handles, names = axes[0].get_legend_handles_labels()
            axes[len(panels)].legend(
                handles, names, frameon=False, fontsize=8.5, loc="center left", borderaxespad=0
            )

    return Drawing(
        width_in=panel_width_in * num_panels, height_in=height_in, paint=paint, columns=num_panels
    )


def _make_room_above(ax: "Axes", num_names: int) -> None:
    """Raises the upper end of the y axis, because a legend of three names covers curves."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + LEGEND_SHARE * num_names * (high - low))


def _paint_curves(ax: "Axes", lines: Sequence[Line], is_log_y: bool) -> None:
    for line in lines:
        _plot_line(ax, line)
    ax.grid(axis="y")
    ax.locator_params(axis="x", nbins=4)
    if is_log_y and _spans_decades([line.y for line in lines]):
        _set_log_y(ax)


def _plot_line(ax: "Axes", line: Line) -> None:
    style = (0, (4, 2)) if line.is_dashed else "-"
    # A single report would be an invisible line.
    marker = "o" if len(line.x) == 1 or line.band else None
    if line.band and len(line.x) == 1:  # an area without width would be invisible
        ax.vlines(line.x, *line.band, color=line.color, alpha=0.5)
    elif line.band:
        ax.fill_between(line.x, *line.band, color=line.color, alpha=0.15, lw=0)
    ax.plot(line.x, line.y, color=line.color, ls=style, marker=marker, ms=4, label=line.title)
    for x, values in zip(line.x, line.points, strict=False):
        ax.plot([x] * len(values), values, "_", color=line.color, alpha=0.6)


def _spans_decades(curves_y: Sequence[Sequence[float]]) -> bool:
    values = np.concatenate([np.asarray(y, float) for y in curves_y])
    values = values[np.isfinite(values)]
    return len(values) > 0 and values.min() > 0 and values.max() > 5 * values.min()


def _set_log_y(ax: "Axes") -> None:
    """Makes the axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
