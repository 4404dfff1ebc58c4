"""Charts of how values are distributed: histograms, bars, the spectrum of the latents."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lafp.report.drawings import (
    BLUE,
    CHARACTERS_PER_PANEL,
    INK,
    PAGE_WIDTH_IN,
    PANEL_WIDTH_IN,
    Drawing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _num_steps(data: np.ndarray) -> int:
    """Returns the steps of an axis: one if only last digits differ, as its labels are long."""
    return 1 if len(data) and np.ptp(data) < 1e-3 * np.abs(data).max() else 4


def histograms(
    panels: Mapping[str, Sequence[float]],
) -> Drawing:
    """Draws small panels of histograms, one per quantity.

    If only few different values of a quantity occur, each gets a bar.

    Args:
        panels: Axis label (quantity and unit) -> values.
    """

    def paint(axes: list["Axes"]) -> None:
        for ax, (label, values) in zip(axes, panels.items(), strict=True):
            data = np.asarray(values, float)
            distinct = np.unique(data)
            if len(distinct) <= 8 and len(distinct) < max(2, len(data)):
                counts = [(data == value).sum() for value in distinct]
                ax.bar(range(len(distinct)), counts, color=BLUE, alpha=0.8, width=0.6)
                texts = [f"{value:.4g}" for value in distinct]
                is_wide = sum(map(len, texts)) + len(texts) > CHARACTERS_PER_PANEL
                ax.set_xticks(range(len(distinct)), texts, rotation=60 if is_wide else 0)
                ax.set_xlim(-0.9, len(distinct) - 0.1)
            else:
                ax.hist(data, bins=30, color=BLUE, alpha=0.8)
                ax.locator_params(axis="x", nbins=_num_steps(data))
            ax.set_xlabel(label)
            ax.locator_params(axis="y", nbins=3, integer=True)

    return Drawing(
        width_in=PANEL_WIDTH_IN * len(panels),
        height_in=1.7,
        paint=paint,
        columns=len(panels),
    )


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    xlabel: str,
    *,
    colors: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
) -> Drawing:
    """Draws horizontal bars, the first on top, with a note behind each.

    Args:
        labels: Names of the bars.
        values: Lengths of the bars.
        xlabel: Quantity and unit of the lengths.
        colors: Colours of the bars; None draws all in blue.
        notes: Text behind each bar; None writes the values.
    """

    def paint(axes: list["Axes"]) -> None:
        (ax,) = axes
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

    return Drawing(width_in=8.4, height_in=0.55 + 0.27 * len(labels), paint=paint)


def latent_statistics(norms: Sequence[float], spectrum: Sequence[float]) -> Drawing:
    """Draws a histogram of the norms beside the share of variance per principal component.

    Args:
        norms: |z| of each pair.
        spectrum: Eigenvalues of the latents' covariance, largest first.
    """

    def paint(axes: list["Axes"]) -> None:
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

    return Drawing(width_in=7.0, height_in=2.0, paint=paint, columns=2)


def maps(
    panels: Mapping[str, Sequence[tuple[float, float, float]]], *, is_discrete: bool
) -> Drawing:
    """Points on a plane, one panel per title. All panels have the same axes and colours.

    Args:
        panels: Title -> x, y and the value behind the colour of each point.
        is_discrete: Whether values are choices, whose colours have no order.
    """
    data = {title: np.asarray(points, float) for title, points in panels.items()}
    every = np.concatenate(list(data.values()))
    # A few outliers would press all others together; they are drawn at the border.
    low, high = np.quantile(every[:, :2], [0.005, 0.995], axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-9)
    ends = np.quantile(every[:, 2], [0, 1] if is_discrete else [0.02, 0.98])

    def paint(axes: list["Axes"]) -> None:
        for ax, (title, points) in zip(axes, data.items(), strict=True):
            at = np.clip(points[:, :2], low, high)
            ax.scatter(
                at[:, 0], at[:, 1], c=points[:, 2], s=7, alpha=0.75, linewidths=0,
                cmap="tab20" if is_discrete else "coolwarm", vmin=ends[0], vmax=ends[1],
            )  # fmt: skip
            ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
            ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(title)

    num = max(3, len(panels))
    return Drawing(
        width_in=PAGE_WIDTH_IN * len(panels) / num,
        height_in=PAGE_WIDTH_IN / num,
        paint=paint,
        columns=len(panels),
    )
