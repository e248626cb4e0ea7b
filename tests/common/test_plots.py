"""The plotting style: colours that people tell apart, the same bytes for the same figure, axes and bands that do what they say."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import plots
from common.plots import DARK, GRID, INK, PAPER, ROUTERS, SOFT, band, curve, house_style, label_lines, panels, to_svg


@house_style()
def drawn() -> Figure:
    figure, (left, right) = panels(2, share_x=False, share_y=False)
    x = np.array([1e6, 1e7, 1e8])
    for k, ax in enumerate((left, right)):
        curve(ax, x, x / 1e6, x < 5e7, color=ROUTERS[k])
        band(ax, x, x / 2e6, x / 5e5, ROUTERS[k], 0.25)
    plots.sizes_along(left, "x", "N (parameters)")
    plots.losses_along(left, "loss (nats per token)")
    plots.experts_along(right, "x", [1e6, 1e7])
    plots.percent_along(right, "error (%)")
    left.set_title("title that is text")
    return figure


@pytest.fixture
def ax() -> Axes:
    """An empty panel with log axes from 1 to 100."""
    _, (found,) = panels(1)
    found.set(xscale="log", yscale="log", xlim=(1, 100), ylim=(1, 100))
    return found


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [INK, SOFT, *ROUTERS])
def test_colours_stand_out_from_light_and_from_dark_pages(colour: str) -> None:
    # WCAG 2.1, 1.4.11: 3 to 1 for graphics, 4.5 to 1 for text.
    least = 4.5 if colour in (INK, SOFT) else 3
    assert contrast(colour, PAPER) >= least
    assert contrast(DARK[colour], DARK[PAPER]) >= least


def test_every_colour_has_a_counterpart_on_dark_pages() -> None:
    assert set(DARK) == {INK, SOFT, GRID, PAPER, *ROUTERS}
    assert set(re.findall(r"#[0-9a-f]{6}\b", to_svg(drawn()))) <= set(DARK)
    assert len(set(DARK.values())) == len(DARK)


def test_the_same_figure_is_the_same_bytes_whatever_the_users_settings() -> None:
    figure = drawn()
    first = to_svg(figure)
    assert to_svg(figure) == first
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False, "svg.hashsalt": "other"}):
        assert to_svg(drawn()) == first


def test_svg_is_xml_with_text_as_text_and_no_date() -> None:
    found = to_svg(drawn())
    texts = [element.text for element in ElementTree.fromstring(found).iter() if element.tag.endswith("}text")]
    assert "title that is text" in texts
    assert "date" not in found


def test_drawing_leaves_the_users_settings_alone() -> None:
    with mpl.rc_context({"font.size": 17}):
        to_svg(drawn())
        assert mpl.rcParams["font.size"] == 17


@pytest.mark.parametrize("number", [1, 3, 5])
def test_panels_wrap_after_three(number: int) -> None:
    figure, axes = panels(number)
    assert len(axes) == sum(ax.get_visible() for ax in figure.axes) == number
    assert len({round(ax.get_position().y0, 3) for ax in axes}) == -(-number // plots.MOST_PANELS)


def test_labels_stay_at_the_left_and_the_bottom() -> None:
    _, axes = panels(4, across=2)
    for one in axes:
        one.set(xlabel="x", ylabel="y")
    plots.outer_labels(axes, across=2)
    assert [one.get_xlabel() for one in axes] == ["", "", "x", "x"]
    assert [one.get_ylabel() for one in axes] == ["y", "", "y", ""]


def test_a_curve_is_dashed_from_its_last_point_within_on(ax: Axes) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    curve(ax, x, x, np.array([False, True, True, False]), color=INK)
    solid, dashed = (np.asarray(line.get_ydata(), dtype=np.float64) for line in ax.lines)
    np.testing.assert_array_equal(solid, [np.nan, 2, 3, np.nan])
    np.testing.assert_array_equal(dashed, [1, 2, 3, 4])


def test_a_band_does_not_move_the_limits_and_is_left_out_where_an_end_is_missing(ax: Axes) -> None:
    x, nothing = np.array([1.0, 10.0, 100.0]), np.full(3, np.nan)
    band(ax, x, np.array([2.0, 2.0, np.nan]), np.array([np.inf, 3.0, 4.0]), INK, 0.2)
    band(ax, x, nothing, nothing, INK, 0.2)
    assert ax.get_ylim() == (1, 100)
    first, second = ax.collections
    outline = np.asarray(first.get_paths()[0].vertices)
    assert outline[:, 0].max() == 10
    assert outline[:, 1].max() > 1e20
    assert not second.get_paths()


def test_of_two_lines_too_close_for_their_labels_the_first_named_has_one(ax: Axes) -> None:
    label_lines(ax, [(10.0, "ten"), (10.5, "close"), (50.0, "fifty")], INK, right=True)
    assert [text.get_text() for text in ax.texts] == ["ten", "fifty"]
