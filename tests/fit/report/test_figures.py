"""Figures: every run is drawn, curves and bands are those of the fits, axes say what they are, and the same input gives the same bytes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import minimize_scalar

from common.errors import InputError
from common.plots import DARK, to_svg
from fit.analysis import Analysis, Options, analyse
from fit.report import figures
from fit.runs import Runs, load_runs
from fit.runs.schema import D, E, N
from golden import small_dense
from tests.checks import unchecked

LEVEL = 0.8
"""What 100 draws of six clusters reach: 0.95 asks for about 200."""


@pytest.fixture(scope="module")
@unchecked()
def analysis(simulated_runs: Runs) -> Analysis:
    """Two laws on two routers, with draws of wild clusters."""
    laws, routers = ("floor", "bounded", "dense"), ("S-Base", "Hash")
    return analyse(simulated_runs, Options(laws=laws, routers=routers, draws=100, level=LEVEL, scheme="wild-clusters"))


@pytest.fixture(scope="module")
@unchecked()
def alone(small_runs: Runs) -> Analysis:
    """One router of the small runs, without draws."""
    return analyse(small_runs, Options(laws=("bounded", "floor"), routers=("S-Base",), draws=0))


@pytest.fixture(scope="module")
@unchecked()
def dense(small_runs: Runs) -> Analysis:
    """Dense laws alone."""
    return analyse(small_runs, Options(laws=("dense", "dense-floor"), draws=100, level=LEVEL))


DRAW: dict[str, Callable[[Analysis], Figure]] = {
    "roll_out": lambda a: figures.roll_out(a.of_law("bounded"), LEVEL),
    "residuals": lambda a: figures.residuals(a.of_law("bounded")),
    "laws_side_by_side": figures.laws_side_by_side,
    "loss_by_experts": lambda a: figures.loss_by_experts(a.of_law("bounded")),
    "loss_by_size": lambda a: figures.loss_by_size(a.of_law("bounded")),
}


@pytest.fixture(scope="module")
def drawn(analysis: Analysis) -> dict[str, Figure]:
    """Each figure of the two routers, drawn once."""
    return {name: draw(analysis) for name, draw in DRAW.items()}


CURVES = ["laws_side_by_side", "loss_by_experts", "loss_by_size"]
OF_DENSE: dict[str, Callable[[Analysis], Figure]] = {
    "roll_out": lambda a: figures.roll_out(a.results, LEVEL),
    "residuals": lambda a: figures.residuals(a.results),
    "laws_side_by_side": figures.laws_side_by_side,
    "loss_by_size": lambda a: figures.loss_by_size(a.results),
}


def points(ax: Axes) -> list[Line2D]:
    """The markers of runs, which no line joins."""
    return [line for line in ax.lines if line.get_linestyle() == "None"]


def count(lines: Sequence[Line2D]) -> int:
    return sum(len(np.asarray(line.get_xdata())) for line in lines)


def curves(ax: Axes) -> list[tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]]:
    """Whole curves: the solid and the dashed part of each together."""
    long = [line for line in ax.lines if len(np.asarray(line.get_xdata())) > 100]
    parts = [(np.asarray(line.get_xdata(), dtype=np.float64), np.asarray(line.get_ydata(), dtype=np.float64)) for line in long]
    return [(x, np.where(np.isnan(y), rest, y)) for (x, y), (_, rest) in zip(parts[::2], parts[1::2], strict=True)]


def bands(ax: Axes) -> list[Float[np.ndarray, "n 2"]]:
    """The outline of each band: its lower end, then its upper one back."""
    found = [one for one in ax.collections if type(one) is PolyCollection]
    return [np.asarray(path.vertices)[:-1] for one in found for path in one.get_paths()]


def check(figure: Figure) -> None:
    """Axes at the left and the bottom have a label with a unit, and tick labels are text that people read."""
    axes = [ax for ax in figure.axes if ax.get_visible()]
    labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
    assert axes[0].get_ylabel()
    assert axes[-1].get_xlabel()
    # Numbers of experts, and the ratio EPC / N, are counts and have no unit.
    assert all(
        re.search(r"\((?:parameters|nats per token|bits per byte|tokens|FLOPs|%|experts)\)|experts E|EPC / N", label) for label in labels
    ), labels
    to_svg(figure)
    ticks = [text.get_text() for ax in axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    assert any(ticks)
    assert all(re.fullmatch(r"[-+\u2212]?[\d.]*(?:[kMBT]|e\d+)?(\n\u2264 [\d.]+(?:[kMBT]|e\d+)?)?", tick) for tick in ticks), ticks


@pytest.mark.parametrize("name", DRAW)
def test_axes_are_labelled_with_units_and_ticks_are_plain(name: str, drawn: dict[str, Figure]) -> None:
    check(drawn[name])


@pytest.mark.parametrize("name", DRAW)
def test_the_same_figure_is_the_same_bytes_in_colours_that_dark_pages_know(name: str, analysis: Analysis, drawn: dict[str, Figure]) -> None:
    first = to_svg(drawn[name])
    assert to_svg(DRAW[name](analysis)) == first
    assert set(re.findall(r"#[0-9a-f]{6}\b", first)) <= set(DARK)


@pytest.mark.parametrize("name", DRAW)
def test_one_router_without_draws_is_drawn_without_bands(name: str, alone: Analysis) -> None:
    figure = DRAW[name](alone)
    check(figure)
    assert not [one for ax in figure.axes for one in bands(ax)]


@pytest.mark.parametrize("name", OF_DENSE)
def test_dense_laws_are_drawn(name: str, dense: Analysis) -> None:
    figure = OF_DENSE[name](dense)
    check(figure)
    assert name not in CURVES or all(bands(ax) for ax in figure.axes)


def test_a_law_in_tokens_is_drawn_by_size_with_a_line_per_number_of_tokens() -> None:
    results = analyse(load_runs(small_dense(), target="loss_test"), Options(laws=("tokens",), draws=0)).results
    figure = figures.loss_by_tokens(results)
    check(figure)
    for ax, letter, column in zip(figure.axes, "DN", (D, N), strict=True):
        held = np.unique(results[0].runs.numeric(column))
        assert [text.get_text()[:4] for text in ax.texts].count(f"{letter} = ") == len(curves(ax)) == min(5, len(held))
        assert count(points(ax)) == len(results[0].runs)
    for draw in (figures.residuals, lambda results: figures.roll_out(results, LEVEL)):
        check(draw(results))


@pytest.fixture(scope="module")
@unchecked()
def tokens() -> Analysis:
    """Dense runs of six numbers of tokens, their losses in bits per byte."""
    n, d = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], np.geomspace(1e9, 1e11, 6)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) / 3 * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    return analyse(Runs.from_columns({"N": n, "D": d, "bpb": loss}), Options(laws=("tokens", "dense-floor"), draws=100, level=LEVEL))


def test_lines_by_size_and_by_tokens_are_the_laws_in_bands_of_a_new_run(tokens: Analysis) -> None:
    (result,) = tokens.of_law("tokens")
    by_size, by_tokens = figures.loss_by_tokens([result]).axes
    for ax, along, held in ((by_size, N, D), (by_tokens, D, N)):
        values = np.unique(result.runs.numeric(held))
        chosen = values[np.linspace(0, len(values) - 1, 5).round().astype(int)]
        found = bands(ax)
        for k, ((x, y), value) in enumerate(zip(curves(ax), chosen, strict=True)):
            np.testing.assert_allclose(y, 10 ** result.fit.log10_loss({along: x, held: np.full_like(x, value)}), rtol=1e-12)
            mean, new = found[2 * k : 2 * k + 2]
            half = len(new) // 2
            assert np.all(new[:half, 1] <= np.exp(np.interp(np.log(new[:half, 0]), np.log(x), np.log(y))))
            assert np.ptp(new[:, 1]) >= np.ptp(mean[:, 1])
        assert count(points(ax)) == len(result.runs)
        assert "extrapolated" in [text.get_text() for text in ax.texts]
    assert by_size.get_ylabel() == "loss (bits per byte)"


def test_compute_optimal_curves_are_where_the_loss_of_a_budget_is_least(tokens: Analysis) -> None:
    (result,) = tokens.of_law("tokens")
    figure = figures.compute_optimal([result])
    check(figure)
    sizes, number, losses = (curves(ax)[0] for ax in figure.axes)
    for place in (0, 60, 119):
        budget = sizes[0][place]

        def loss(log_n: float, budget: float = budget) -> float:
            n = np.exp([log_n])
            return float(result.fit.log10_loss({N: n, D: budget / 6 / n})[0])

        best: Any = minimize_scalar(loss, bracket=(np.log(1e7), np.log(1e9)), tol=1e-10)
        # The minimum of a smooth curve is found to the square root of rounding.
        assert sizes[1][place] == pytest.approx(np.exp(best.x), rel=1e-4)
        assert number[1][place] == pytest.approx(budget / 6 / np.exp(best.x), rel=1e-4)
        assert losses[1][place] == pytest.approx(10**best.fun, rel=1e-9)
    assert all(bands(ax) for ax in figure.axes)
    with pytest.raises(InputError, match="compute-optimal"):
        figures.compute_optimal(tokens.of_law("dense-floor"))


def test_roll_out_has_a_panel_by_size_and_one_by_tokens(tokens: Analysis) -> None:
    (result,) = tokens.of_law("tokens")
    figure = figures.roll_out([result], LEVEL)
    check(figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Dense", "Dense, by tokens"]
    for ax, by in zip(figure.axes, (N, D), strict=True):
        assert count(points(ax)) == sum(len(step.runs) for step in result.steps if step.by == by)


def test_residuals_are_drawn_against_tokens_that_the_law_does_not_read(tokens: Analysis) -> None:
    labels = [ax.get_xlabel() for ax in figures.residuals(tokens.of_law("dense-floor")).axes]
    assert labels == [figures.LABELS[N], figures.LABELS[D]]


def test_a_law_in_compute_is_drawn_along_it() -> None:
    c = np.geomspace(1e18, 1e22, 9)
    loss = (1.7 + 300 * c**-0.13) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(c)))
    results = analyse(Runs.from_columns({"C": c, "loss": loss}), Options(laws=("frontier",), draws=100, level=LEVEL)).results
    figure = figures.loss_by_compute(results)
    check(figure)
    assert figure.axes[0].get_xlabel() == "training compute C (FLOPs)"
    assert count(points(figure.axes[0])) == 9
    assert len(bands(figure.axes[0])) == 2
    check(figures.residuals(results))
    check(figures.roll_out(results, LEVEL))


def test_laws_in_tokens_and_experts_are_drawn_at_the_most_tokens() -> None:
    n, e, d = (axis.ravel() for axis in np.meshgrid([5e7, 2e8, 8e8], [1.0, 8, 64], [2e9, 1e10, 5e10]))
    loss = 1.6 + 200 * n**-0.3 * e**-0.08 + 470 * d**-0.3
    loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    analysis = analyse(Runs.from_columns({"N": n, "E": e, "D": d, "loss": loss}), Options(laws=("tokens-experts", "bilinear"), draws=0))
    results = analysis.of_law("tokens-experts")
    for draw in (figures.loss_by_size, figures.loss_by_experts):
        (ax,) = draw(results).axes
        assert count(points(ax)) == 9
        assert ax.get_title(loc="left") == "all, tokens-experts, D = 50B"
    worth, losses = figures.laws_side_by_side(analysis).axes
    assert count(points(losses)) == 2 * 3
    (x, y) = curves(worth)[0]
    fit = results[0].fit
    dense, routed = ({N: size, E: np.full_like(x, count), D: np.full_like(x, 5e10)} for size, count in ((x * y, 1.0), (x, 64.0)))
    # EPC is bisected to rounding, and log10 loss moves by a tenth of ln N at most.
    np.testing.assert_allclose(fit.log10_loss(dense), fit.log10_loss(routed), atol=1e-12)


@pytest.mark.parametrize("name", ["loss_by_experts", "loss_by_size"])
def test_every_run_is_drawn_in_its_routers_panel_and_those_compared_in_the_first(
    name: str, analysis: Analysis, drawn: dict[str, Figure]
) -> None:
    compared, *axes = drawn[name].axes
    results = analysis.of_law("bounded")
    for ax, result in zip(axes, results, strict=True):
        assert count(points(ax)) == len(result.runs)
        assert ax.get_title(loc="left") == result.router
    largest = max(result.runs.numeric(N).max() for result in results)
    column, value = (N, largest) if name == "loss_by_experts" else (E, 64)
    assert count(points(compared)) == sum(int(np.sum(result.runs.numeric(column) == value)) for result in results)


def test_every_residual_is_drawn_along_each_column(analysis: Analysis) -> None:
    results = [*analysis.of_law("bounded"), *analysis.of_law("floor")]
    figure = figures.residuals(results)
    assert len(figure.axes) == 4
    for ax, law in zip(figure.axes, ["bounded", "bounded", "floor", "floor"], strict=True):
        drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in points(ax)])
        expected = np.concatenate([100 * (10**result.fit.residuals - 1) for result in analysis.of_law(law)])
        np.testing.assert_array_equal(drawn, expected)


def test_every_held_out_run_is_drawn_with_its_interval_and_counted(analysis: Analysis, drawn: dict[str, Figure]) -> None:
    results = analysis.of_law("bounded")
    for ax, result in zip(drawn["roll_out"].axes, results, strict=True):
        assert count(points(ax)) == sum(len(step.runs) for step in result.steps)
        bars = [segment for one in ax.collections if isinstance(one, LineCollection) for segment in one.get_segments()]
        low, high = np.array([np.asarray(segment)[:, 1] for segment in bars]).T
        covered = [int(text.get_text().split("/")[0]) for text in ax.texts]
        assert covered == [step.score.covered for step in result.steps if step.score is not None]
        # A bar about the observed loss reaches zero exactly where the interval holds it.
        assert int(np.sum((low <= 0) & (high >= 0))) == sum(covered)
        assert ax.get_ylim()[0] < low.min() < high.max() < ax.get_ylim()[1]


@pytest.mark.parametrize("name", CURVES)
def test_curves_lie_inside_their_panels_and_have_bands(name: str, drawn: dict[str, Figure]) -> None:
    for ax in drawn[name].axes:
        low, high = ax.get_ylim()
        assert curves(ax)
        for x, y in curves(ax):
            assert np.nanmin(y) >= low
            assert np.nanmax(y) <= high
            assert ax.get_xlim()[0] <= x.min()
            assert x.max() <= ax.get_xlim()[1] * (1 + 1e-12)
        assert bands(ax)
        assert "extrapolated" in [text.get_text() for text in ax.texts]


def test_compared_losses_have_the_mean_inside_its_band_and_that_inside_the_band_of_new_runs(drawn: dict[str, Figure]) -> None:
    ax = drawn["loss_by_experts"].axes[0]
    found = bands(ax)
    for (x, y), mean, new in zip(curves(ax), found[::2], found[1::2], strict=True):
        for outline in (mean, new):
            half = len(outline) // 2
            at, low, high = outline[:half, 0], outline[:half, 1], outline[half:, 1][::-1]
            on = np.exp(np.interp(np.log(at), np.log(x), np.log(y)))
            assert np.all((low <= on) & (on <= high))
        assert np.ptp(new[:, 1]) > np.ptp(mean[:, 1])


def test_worth_of_experts_is_the_dense_size_of_equal_loss(analysis: Analysis, drawn: dict[str, Figure]) -> None:
    top = drawn["laws_side_by_side"].axes[0]
    names = dict.fromkeys((analysis.quoted, "bounded", "floor"))
    for law, (n, ratio) in zip(names, curves(top), strict=True):
        fit = analysis.result("S-Base", law).fit
        dense, routed = ({N: size, E: np.full_like(n, e)} for size, e in ((n * ratio, 1.0), (n, 64.0)))
        # EPC is bisected to rounding, and log10 loss moves by a tenth of ln N at most.
        np.testing.assert_allclose(fit.log10_loss(dense), fit.log10_loss(routed), atol=1e-12)


def test_figures_that_a_law_has_not_raise(analysis: Analysis) -> None:
    with pytest.raises(InputError, match="dense"):
        figures.loss_by_experts(analysis.of_law("dense"))
    with pytest.raises(InputError, match="held out"):
        figures.roll_out([], LEVEL)
