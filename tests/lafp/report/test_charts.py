import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lafp.report import charts, distributions
from lafp.report.sections import probe


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()).strip()
        for node in ET.fromstring(svg).iter()
        if node.tag.endswith("text")
    ]


def test_charts_are_well_formed_and_the_same_for_the_same_data():
    rows = [charts.Dot(title="a < b & c", value=0.5, low=0.4, high=0.6)]
    first = charts.dots([charts.DotPanel(rows=rows, xlabel="share")]).svg()
    assert first == charts.dots([charts.DotPanel(rows=rows, xlabel="share")]).svg()
    assert "a < b & c" in texts(first)


def test_dots_write_their_values_in_the_given_form():
    rows = [charts.Dot(title="one", value=0.125), charts.Dot(title="two", value=0.5)]
    panel = charts.DotPanel(rows=rows, xlabel="share", form="{:.3f}".format)
    shown = texts(charts.dots([panel]).svg())
    assert {"0.125", "0.500"} <= set(shown)


def test_dots_beside_others_are_named_once_and_write_no_values():
    control = charts.Dot(title="untrained", value=0.25, is_open=True)
    rows = [charts.Dot(title=name, value=0.5, beside=[control]) for name in ("lapo", "laom")]
    panels = [
        charts.DotPanel(rows=rows, xlabel="R²", title=title, form="{:.4f}".format)
        for title in ("seen", "unseen")
    ]
    shown = texts(charts.dots(panels).svg())
    assert shown.count("untrained") == 1
    assert shown.count("0.5000") == 4 and "0.2500" not in shown


def test_equal_legends_are_drawn_once_and_single_curves_have_none():
    line = charts.Line(title="alone", x=[0, 1], y=[1, 2])
    pair = [charts.Line(title=name, x=[0, 1], y=[1, 2]) for name in ("left", "right")]
    shown = texts(charts.curves({"a": [line], "b": pair, "c": pair}).svg())
    assert (shown.count("alone"), shown.count("left"), shown.count("right")) == (0, 1, 1)


def test_a_legend_of_three_names_covers_no_curve():
    steps = [100, 200, 300, 400, 500]
    values = {"z": 0.43, "observation": 0.03, "untrained": 0.2}
    probe = [charts.Line(title=n, x=steps, y=[v] * 5) for n, v in values.items()]
    loss = [charts.Line(title=n, x=steps, y=[5, 4, 3, 2, 1]) for n in ("training", "held out")]
    figure = charts.curves({"loss": loss, "probe R²": probe})._figure()
    figure.canvas.draw()
    ax = figure.axes[1]
    legend = ax.get_legend().get_window_extent()
    heights = [ax.transData.transform((300, value))[1] for value in values.values()]
    assert all(height < legend.y0 or height > legend.y1 for height in heights)


@pytest.mark.parametrize("values", [[0.0], [3.0] * 50, list(np.linspace(0, 1, 500))])
def test_histograms_take_any_distribution(values):
    assert "quantity" in texts(distributions.histograms({"quantity": values}).svg())


def test_few_distinct_values_get_a_bar_and_a_label_each():
    assert {"24", "30", "60"} <= set(
        texts(distributions.histograms({"fps": [24, 30, 30, 60] * 9}).svg())
    )


def test_empty_and_zero_bars_do_not_fail():
    assert "none" in texts(distributions.bars(["none"], [0.0], "seconds").svg())


def test_constant_latents_have_a_spectrum_of_zeros():
    svg = distributions.latent_statistics([1.0] * 9, [0.0] * 4).svg()
    assert "share of variance" in texts(svg)


def test_the_names_of_all_controls_of_the_probe_fit_beside_its_curves():
    lines = [charts.Line(title=name, x=[2, 3], y=[0, 1]) for name in probe.PROBED.values()]
    figure = probe.over_fit_size(lines, [100, 1000])._figure()
    figure.canvas.draw()
    legend = figure.axes[-1].get_legend().get_window_extent()
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1


def test_the_interval_of_a_single_point_is_a_line_from_end_to_end():
    def height(low, high):
        line = charts.Line(title="alone", x=[1.0], y=[0.5], band=([low], [high]))
        svg = charts.curves({"a": [line]}, ylim=(0, 1)).svg()
        path = re.search(
            r'LineCollection_1">\s*<path d="M [\d.]+ ([\d.]+) \s*L [\d.]+ ([\d.]+)', svg
        )
        return float(path[1]) - float(path[2])

    assert height(0.1, 0.9) == pytest.approx(4 * height(0.4, 0.6))


def test_long_titles_of_neighbouring_panels_do_not_overlap():
    line = charts.Line(title="a", x=[0, 1], y=[0, 1])
    names = ["share of the embeddings' variance explained", "spread of the target embedding"]
    figure = charts.curves({name: [line] for name in names})._figure()
    figure.draw_without_rendering()
    first, second = (axes.title.get_window_extent() for axes in figure.axes[:2])
    assert first.x1 < second.x0
