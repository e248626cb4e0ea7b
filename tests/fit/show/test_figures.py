"""Figures: what they show, that their axes say what they are, and that the same input gives the same bytes."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from fit.analysis import Analysis, Options, Result, analyse
from fit.assess.lack_of_fit import RollOutStep, roll_out
from fit.load.runs import load_runs
from fit.show import figures
from fit.show.figures.checks import objective_over
from fit.show.figures.curves import sizes_and_experts
from fit.show.figures.style import MOST_PANELS, house_style, panels
from fit.show.render.palette import DARK
from golden import simulated_curves


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(load_runs(simulated_curves()), Options(laws=("bounded",), draws=30))


@pytest.fixture(scope="module")
def steps(analysis: Analysis) -> Mapping[str, tuple[RollOutStep, ...]]:
    found: dict[str, tuple[RollOutStep, ...]] = {}
    for result in analysis.results:
        data = {name: result.runs.numeric(name) for name in result.law.columns}
        found[result.router] = roll_out(result.law, data, result.runs.loss, draws=30)
    return found


DRAWN: dict[str, Callable[[Analysis], Figure]] = {
    "loss_by_experts": lambda a: figures.loss_by_experts(a.results),
    "loss_by_size": lambda a: figures.loss_by_size(a.results),
    "loss_by_effective_size": lambda a: figures.loss_by_effective_size(a.results),
    "equal_loss": lambda a: figures.equal_loss(a.results, 0.95),
    "residuals": lambda a: figures.residuals(a.results),
    "valley": lambda a: figures.valley(a.results, 0.95),
}


def check(figure: Figure) -> None:
    """Every outer axis has a label with a unit, every panel a title, every tick label is text that people read."""
    axes = [ax for ax in figure.axes if ax.get_visible()]
    labels = [ax.get_xlabel() for ax in axes if ax.get_xlabel()] + [ax.get_ylabel() for ax in axes if ax.get_ylabel()]
    assert all(ax.get_title(loc="left") for ax in axes)
    assert axes[0].get_ylabel()
    assert axes[-1].get_xlabel()
    # Expert counts are numbers of experts, which the label says without brackets.
    assert all(re.search(r"\((?:parameters|nats per token|%|experts)\)|experts E", label) for label in labels)
    figure.draw_without_rendering()
    ticks = [text.get_text() for ax in axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    assert any(ticks)
    assert all(re.fullmatch(r"[-+\u2212]?[\d.]*[kMBT]?", tick) for tick in ticks), ticks


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_labelled_with_units_and_ticks_are_plain(name: str, analysis: Analysis) -> None:
    check(DRAWN[name](analysis))


def test_roll_out_axes_are_labelled_with_units(analysis: Analysis, steps: Mapping[str, tuple[RollOutStep, ...]]) -> None:
    check(figures.roll_out_errors(analysis.results, steps, 0.95))


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_figure_is_the_same_bytes_whatever_the_users_settings(name: str, analysis: Analysis) -> None:
    first = figures.to_svg(DRAWN[name](analysis))
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False, "svg.hashsalt": "other"}):
        assert figures.to_svg(DRAWN[name](analysis)) == first


@pytest.mark.parametrize("name", DRAWN)
def test_svg_is_xml_with_text_as_text_and_no_date(name: str, analysis: Analysis) -> None:
    drawn = figures.to_svg(DRAWN[name](analysis))
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("}text")]
    assert "S-Base" in texts or "by dense size N" in texts or "along N" in texts
    assert "date" not in drawn


@pytest.mark.parametrize("name", DRAWN)
def test_every_colour_has_a_counterpart_on_dark_pages(name: str, analysis: Analysis) -> None:
    drawn = figures.to_svg(DRAWN[name](analysis))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= set(DARK)


@pytest.mark.parametrize("name", ["loss_by_experts", "loss_by_size", "loss_by_effective_size", "equal_loss"])
def test_what_is_extrapolated_says_so(name: str, analysis: Analysis) -> None:
    drawn = DRAWN[name](analysis)
    for ax in drawn.axes:
        assert "extrapolated" in [text.get_text() for text in ax.texts]
        assert any(line.get_linestyle() == "--" for line in ax.lines)


def test_drawing_leaves_the_users_settings_alone(analysis: Analysis) -> None:
    with mpl.rc_context({"font.size": 17}):
        figures.to_svg(figures.residuals(analysis.results))
        assert mpl.rcParams["font.size"] == 17
    with house_style():
        assert mpl.rcParams["svg.fonttype"] == "none"


def test_png_is_png(analysis: Analysis) -> None:
    assert figures.to_png(figures.residuals(analysis.results), 40).startswith(b"\x89PNG")


def test_every_run_is_a_point_of_figure_1(analysis: Analysis) -> None:
    for name in ("loss_by_experts", "loss_by_size"):
        for ax, result in zip(DRAWN[name](analysis).axes, analysis.results, strict=True):
            points = [line for line in ax.lines if line.get_linestyle() == "None"]
            assert sum(len(np.asarray(line.get_xdata())) for line in points) == len(result.runs)


def test_effective_sizes_lie_on_the_dense_line_as_far_as_the_residuals_let_them(analysis: Analysis) -> None:
    right = figures.loss_by_effective_size(analysis.results).axes[1]
    first: Result = analysis.results[0]
    points = next(line for line in right.lines if line.get_linestyle() == "None")
    x, y = (np.asarray(values, dtype=np.float64) for values in points.get_data())
    on_line = first.fit.log10_loss({"dense_parameter_count": x, "num_experts": np.ones_like(x)})
    # L(N̄, 1) = L(N, E) holds to rounding, so what is left is each run's own residual.
    np.testing.assert_allclose(np.log10(y) - on_line, first.fit.residuals, atol=1e-12)


def test_the_objectives_valley_has_its_least_value_at_the_fit(analysis: Analysis) -> None:
    fit = analysis.results[0].fit
    start, end = fit.parameters["E_start"], fit.parameters["E_max"]
    around = objective_over(fit, start * np.array([0.9, 1.0, 1.1]), end * np.array([0.9, 1.0, 1.1]))
    # Least squares at the fitted shapes gives the fit's own objective, to rounding.
    assert around[1, 1] == pytest.approx(1, abs=1e-9)
    assert np.all(around >= 1 - 1e-9)
    assert np.isnan(objective_over(fit, np.array([10.0]), np.array([5.0]))).all()


def test_sizes_and_experts_are_those_of_the_runs(analysis: Analysis) -> None:
    sizes, experts = sizes_and_experts(analysis.results)
    assert len(sizes) == 6
    assert all(low < high for low, high in pairwise(experts.tolist()))


@pytest.mark.parametrize("number", [1, 3, 5])
def test_panels_wrap_after_three(number: int) -> None:
    figure, axes = panels(number)
    assert len(axes) == number
    assert sum(ax.get_visible() for ax in figure.axes) == number
    assert len({round(ax.get_position().y0, 3) for ax in axes}) == -(-number // MOST_PANELS)


def test_one_router_is_drawn_alone(analysis: Analysis) -> None:
    one = analysis.results[:1]
    for drawn in (figures.loss_by_experts(one), figures.valley(one, 0.95), figures.equal_loss(one, 0.95), figures.residuals(one)):
        check(drawn)


def test_figures_without_draws_are_drawn_without_intervals() -> None:
    bare = analyse(load_runs(simulated_curves()), Options(laws=("bounded",), routers=("Hash",), draws=0))
    for name in DRAWN:
        check(DRAWN[name](bare))
