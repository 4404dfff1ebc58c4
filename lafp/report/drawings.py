"""Draws a chart as SVG or PNG, in one look for all: thin axes, few colors, no chart junk."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH_IN = 9.2
PANEL_WIDTH_IN = PAGE_WIDTH_IN / 4
CHARACTERS_PER_PANEL = 24
"""Tick labels side by side in a panel may have so many."""
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
    # Equal data gives equal bytes.
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
class Drawing:
    """A chart that can be written as SVG or PNG."""

    width_in: float
    height_in: float
    paint: Callable[[list["Axes"]], None]
    """Paints ``rows`` x ``columns`` axes, row by row."""
    columns: int = 1
    rows: int = 1

    def svg(self) -> str:
        """Draws a complete SVG document on a transparent ground, for pages."""
        metadata = {"Date": None, "Creator": None}
        svg = self._saved({}, format="svg", metadata=metadata).decode()
        return svg[svg.index("<svg") :].replace("'DejaVu Sans', sans-serif", _VIEWER_FONT)

    def png(self) -> bytes:
        """Draws a PNG on white, for papers and documents."""
        return self._saved({"savefig.facecolor": "white"}, format="png", dpi=160)

    def _saved(self, style: dict[str, Any], **options: Any) -> bytes:
        import matplotlib as mpl

        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE | style):
            self._figure().savefig(buffer, **options)
        return buffer.getvalue()

    def _figure(self) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width_in, self.height_in), layout="constrained")
        self.paint(figure.subplots(self.rows, self.columns, squeeze=False).flatten().tolist())
        return figure
