"""Charts of the report, as SVG text. One look for all: thin axes, direct labels, no chart junk.

Every function takes plain numbers and returns a complete SVG document with a transparent
background; the report embeds it as a data URI.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

PAGE_WIDTH_IN = 9.2
PANEL_WIDTH_IN = PAGE_WIDTH_IN / 4
# Of tick labels side by side.
_CHARACTERS_PER_PANEL = 24
INK, MUTED, FAINT = "#24292f", "#6e7781", "#d0d7de"
BLUE, ORANGE, TEAL, GREY, LIGHT_GREY, PURPLE = (
    "#1f5fa8",
    "#d2762a",
    "#2f9e8f",
    "#7d8590",
    "#afb8c1",
    "#8250a8",
)
CYCLE = (BLUE, ORANGE, TEAL, PURPLE, GREY)

_STYLE: Any = {
    "axes.edgecolor": MUTED,
    # Ticks say what they are: no "1e-6+4" beside the axis.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlepad": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "savefig.facecolor": "none",
    # Text stays text: the viewer's own font, selectable, small files.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    # The same data gives the same bytes.
    "svg.hashsalt": "lafp",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
# For the browser, where matplotlib measured with DejaVu Sans (wider, so nothing overflows).
_VIEWER_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot-and-interval plot."""

    label: str
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


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = BLUE
    is_dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """Lower and upper end of the interval at each x."""


def draw(
    width_in: float, height_in: float, paint: Callable[[Any], None], panels: int = 1, rows: int = 1
) -> str:
    """An SVG of ``rows`` x ``panels`` axes, painted by ``paint(axes)``: one Axes, or a list."""
    with mpl.rc_context(_STYLE):
        figure = _painted(width_in, height_in, paint, panels, rows)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("'DejaVu Sans', sans-serif", _VIEWER_FONT)


def draw_png(
    width_in: float, height_in: float, paint: Callable[[Any], None], panels: int = 1, rows: int = 1
) -> bytes:
    """As ``draw``, for papers and documents: a PNG on white."""
    with mpl.rc_context(_STYLE | {"savefig.facecolor": "white"}):
        buffer = io.BytesIO()
        _painted(width_in, height_in, paint, panels, rows).savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _painted(
    width_in: float, height_in: float, paint: Callable[[Any], None], panels: int, rows: int
) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots(rows, panels, squeeze=False).flatten().tolist()
    paint(axes[0] if len(axes) == 1 else axes)
    return figure


def dots(
    rows: Sequence[Dot],
    xlabel: str,
    *,
    xlim: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    form: Callable[[float], str] = "{:z.2f}".format,
    width_in: float = 8.4,
) -> str:
    """Dots with intervals, one row each, first row on top, the value written at the right.

    Args:
        rows: What to show.
        xlabel: Quantity and unit.
        xlim: Axis range; None fits the data.
        reference: A vertical line and its label, e.g. the demonstrators' success.
        form: How a value is written.
        width_in: Width of the figure in inches.
    """
    height = len(rows) + 0.55 * sum(row.starts_group for row in rows)
    return draw(
        width_in,
        0.62 + 0.29 * (height + 0.2),
        lambda ax: paint_dots(ax, rows, xlabel, xlim=xlim, reference=reference, form=form),
    )


def paint_dots(
    ax: Axes,
    rows: Sequence[Dot],
    xlabel: str,
    *,
    xlim: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    form: Callable[[float], str] = "{:z.2f}".format,
) -> None:
    """``dots``, into given axes."""
    y = np.arange(len(rows), dtype=float) + np.cumsum([0.55 * row.starts_group for row in rows])
    for row, at in zip(rows, y, strict=True):
        _paint_dot(ax, row, float(at), form(row.value))
    ax.set_yticks(y, [row.label for row in rows])
    ax.tick_params(axis="y", length=0, colors=INK, labelsize=9)
    ax.set_ylim(y[-1] + 0.6, -0.6)
    ax.spines["left"].set_visible(False)
    if xlim:
        ax.set_xlim(*xlim)
    ax.set_xlabel(xlabel)
    if reference:
        ax.axvline(reference[0], color=MUTED, lw=0.8, ls=(0, (3, 2)), zorder=0)
        ax.annotate(
            reference[1],
            (reference[0], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=MUTED,
            size=8.5,
        )


def _paint_dot(ax: Axes, row: Dot, at: float, text: str) -> None:
    ax.axhline(at, color=FAINT, lw=0.5, zorder=0)
    if row.low is not None and row.high is not None:
        ax.plot([row.low, row.high], [at, at], color=row.color, lw=2.2, alpha=0.55)
    ax.plot(row.points, [at] * len(row.points), "|", ms=8, mew=1, color=row.color, alpha=0.8)
    face = "white" if row.is_open else row.color
    ax.plot(row.value, at, "o", ms=6.5, mfc=face, mec=row.color, mew=1.4)
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
    height_in: float = 2.1,
) -> str:
    """Small multiples of curves, one panel per title. Equal legends are drawn once.

    Args:
        panels: Title -> curves.
        xlabel: Shared quantity of the x axes.
        log_y: Titles of panels with a logarithmic y axis, where the values fall far enough.
        height_in: Height of the figure in inches.
    """
    labels = [tuple(line.label for line in lines) for lines in panels.values()]
    # Many curves leave no room inside: the legend then stands beside the panels.
    is_beside = len(set(labels)) == 1 and len(labels[0]) > 2
    num_panels = max(2, len(panels) + is_beside)

    def paint(axes: list[Axes]) -> None:
        for i, (title, lines) in enumerate(panels.items()):
            for line in lines:
                _plot_line(axes[i], line)
            axes[i].set_title(title)
            axes[i].set_xlabel(xlabel)
            axes[i].grid(axis="y")
            axes[i].locator_params(axis="x", nbins=4)
            if title in log_y and _spans_decades([line.y for line in lines]):
                _set_log_y(axes[i])
            if not is_beside and len(lines) > 1 and labels.index(labels[i]) == i:
                axes[i].legend(frameon=False, fontsize=8, handlelength=1.4, borderaxespad=0.2)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        if is_beside:
            handles, names = axes[0].get_legend_handles_labels()
            axes[len(panels)].legend(
                handles, names, frameon=False, fontsize=8.5, loc="center left", borderaxespad=0
            )

    return draw(PANEL_WIDTH_IN * num_panels, height_in, paint, panels=num_panels)


def _plot_line(ax: Axes, line: Line) -> None:
    style = (0, (4, 2)) if line.is_dashed else "-"
    # A single report would be an invisible line.
    marker = "o" if len(line.x) == 1 or line.band else None
    if line.band:
        ax.fill_between(line.x, *line.band, color=line.color, alpha=0.15, lw=0)
    ax.plot(line.x, line.y, color=line.color, ls=style, marker=marker, ms=4, label=line.label)


def _spans_decades(curves_y: Sequence[Sequence[float]]) -> bool:
    values = np.concatenate([np.asarray(y, float) for y in curves_y])
    values = values[np.isfinite(values)]
    return len(values) > 0 and values.min() > 0 and values.max() > 5 * values.min()


def _set_log_y(ax: Axes) -> None:
    """Logarithmic, with plain numbers at 1, 2 and 5."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _num_steps(data: np.ndarray) -> int:
    """Between ticks of an axis: fewer where only their last digits differ, as labels are long."""
    return 1 if len(data) and np.ptp(data) < 1e-3 * np.abs(data).max() else 4


def _listed(axes: Any) -> list[Axes]:
    return axes if isinstance(axes, list) else [axes]


def histograms(
    panels: Mapping[str, Sequence[float]],
    *,
    bins: int = 30,
    marks: Mapping[str, float] | None = None,
    height_in: float = 1.7,
) -> str:
    """Small multiples of histograms, one panel per quantity.

    Args:
        panels: Axis label (quantity and unit) -> values.
        bins: Bars per panel; few values that come again get one bar each.
        marks: Axis label -> a threshold to mark.
        height_in: Height of the figure in inches.
    """

    def paint(axes: Any) -> None:
        for ax, (label, values) in zip(_listed(axes), panels.items(), strict=True):
            data = np.asarray(values, float)
            distinct = np.unique(data)
            if len(distinct) <= 8 and len(distinct) < max(2, len(data)):
                counts = [(data == value).sum() for value in distinct]
                ax.bar(range(len(distinct)), counts, color=BLUE, alpha=0.8, width=0.6)
                texts = [f"{value:.4g}" for value in distinct]
                is_wide = sum(map(len, texts)) + len(texts) > _CHARACTERS_PER_PANEL
                ax.set_xticks(range(len(distinct)), texts, rotation=60 if is_wide else 0)
                ax.set_xlim(-0.9, len(distinct) - 0.1)
            else:
                ax.hist(data, bins=bins, color=BLUE, alpha=0.8)
                ax.locator_params(axis="x", nbins=_num_steps(data))
            if marks and label in marks:
                ax.axvline(marks[label], color=ORANGE, lw=1)
            ax.set_xlabel(label)
            ax.locator_params(axis="y", nbins=3, integer=True)

    return draw(PANEL_WIDTH_IN * len(panels), height_in, paint, panels=len(panels))


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    xlabel: str,
    *,
    colors: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    width_in: float = 8.4,
) -> str:
    """Horizontal bars, first on top, a note behind each.

    Args:
        labels: One per bar.
        values: Lengths.
        xlabel: Quantity and unit.
        colors: One per bar; None draws all in blue.
        notes: Text behind each bar; None writes the values.
        width_in: Width of the figure in inches.
    """

    def paint(ax: Axes) -> None:
        y = np.arange(len(labels))
        ax.barh(y, values, color=colors or BLUE, height=0.62)
        for at, value, note in zip(y, values, notes or [f"{v:.3g}" for v in values], strict=True):
            ax.annotate(
                note, (value, at), xytext=(5, 0), textcoords="offset points", va="center",
                color=INK, size=8.5,
            )  # fmt: skip
        ax.set_yticks(y, labels)
        ax.tick_params(axis="y", length=0, colors=INK)
        ax.set_ylim(len(labels) - 0.45, -0.55)
        ax.set_xlim(0, max(values, default=1.0) * 1.28 or 1.0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(xlabel)

    return draw(width_in, 0.55 + 0.27 * len(labels), paint)


def latent_statistics(norms: Sequence[float], spectrum: Sequence[float]) -> str:
    """Norm histogram beside the share of variance per principal component.

    Args:
        norms: |z| of each pair.
        spectrum: Eigenvalues of the latents' covariance, largest first.
    """

    def paint(axes: list[Axes]) -> None:
        # The largest 1 % goes into the last bar: a few outliers would hide all others.
        most = np.minimum(norms, np.quantile(norms, 0.99))
        axes[0].hist(most, bins=30, color=BLUE, alpha=0.8)
        if (num_steps := _num_steps(most)) == 1:
            axes[0].locator_params(axis="x", nbins=num_steps)
        axes[0].set_xlabel("norm of the latent action")
        axes[0].set_ylabel("frame pairs")
        shares = np.asarray(spectrum, float)
        shares = shares / max(shares.sum(), 1e-30)
        shown = shares[:64]
        axes[1].bar(np.arange(1, len(shown) + 1), shown, color=BLUE, alpha=0.8)
        axes[1].set_xlabel("principal component" + (" (first 64)" if len(shares) > 64 else ""))
        axes[1].set_ylabel("share of variance")
        axes[1].locator_params(axis="x", integer=True)
        for ax in axes:
            ax.locator_params(axis="y", nbins=4)

    return draw(7.0, 2.0, paint, panels=2)


@dataclass(frozen=True, kw_only=True)
class PathPanel:
    """Episodes of one method in the plane."""

    title: str
    paths: np.ndarray
    """float [N, T, 2]: positions; an episode that is over stays at its last."""
    success: np.ndarray
    """bool [N]."""


def paths(
    panels: Sequence[PathPanel],
    *,
    discs: np.ndarray,
    goal: tuple[float, float],
    num_columns: int = 4,
) -> str:
    """Small multiples of paths through the middle of the unit square, y down.

    Args:
        panels: One per method.
        discs: Centres of obstacles, float [P, 2].
        goal: x of the goal line, and its half height about 0.5.
        num_columns: Panels per row.
    """
    num_rows = -(-len(panels) // num_columns)

    def paint(axes: list[Axes]) -> None:
        for ax in axes:
            ax.set_axis_off()
        for ax, panel in zip(axes, panels, strict=False):
            ax.add_patch(Rectangle((0, 0.1), 1, 0.8, fc="none", ec=FAINT, lw=0.8))
            ax.plot([goal[0]] * 2, [0.5 - goal[1], 0.5 + goal[1]], color=TEAL, lw=2)
            for center in discs:
                ax.add_patch(Circle((center[0], center[1]), 0.05, color=LIGHT_GREY, zorder=0))
            for path_T2, is_success in zip(panel.paths, panel.success, strict=True):
                color = BLUE if is_success else ORANGE
                ax.plot(*path_T2.T, color=color, lw=0.6, alpha=0.55)
                if not is_success:
                    ax.plot(*path_T2[-1], "x", color=color, ms=3.5, mew=0.9, alpha=0.8)
            ax.set_title(panel.title, size=8.5)
            ax.set(xlim=(-0.02, 1.02), ylim=(0.92, 0.08), aspect="equal")

    size = PANEL_WIDTH_IN * num_columns, (0.45 + 0.8 * PANEL_WIDTH_IN) * num_rows
    return draw(*size, paint, panels=num_columns, rows=num_rows)
