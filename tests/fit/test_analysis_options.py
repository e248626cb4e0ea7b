"""Options of an analysis: which laws, draws, schemes, groups, points and restrictions reach which fits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from common.errors import InputError
from fit.analysis import POOLED, Options, Point, analyse
from fit.derived import default_points
from fit.engine.losses import huber
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate, Status
from fit.laws import SEPARABLE
from fit.quantities import loss_quantity
from fit.report import fit_document
from fit.runs import Runs
from fit.runs.schema import ROUTER, E, N
from fit.uncertainty.draws import resample
from tests.checks import unchecked
from tests.fit.designs import CURVED, bilinear_losses, ends, grid


def made_runs(shared: float = 0.0, routers: tuple[str, ...] = ("a", "b"), seed: int = 0) -> Runs:
    """Runs of a separable law, of which those of a size share an error of this spread; the routers share their dense runs."""
    data = grid(6, 5)
    generator = np.random.default_rng(seed)
    common = shared * generator.standard_normal(6)[np.unique(data[N], return_inverse=True)[1]]
    columns: dict[str, list[float] | list[str]] = {N: [], E: [], ROUTER: [], "loss_validation": [], "group": [], "weight": []}
    for k, router in enumerate(routers):
        loss = bilinear_losses(data, b=-0.03 - 0.003 * k) * 10 ** (common + 0.0003 * k * generator.standard_normal(30))
        for n, e, value in zip(data[N].tolist(), data[E].tolist(), loss.tolist(), strict=True):
            if e > 1 or k == 0:
                row = (n, e, router if e > 1 else "Dense", value, "small" if n < 1e8 else "large", 1.0 + (e > 10))
                for name, cell in zip(columns, row, strict=True):
                    columns[name].append(cell)  # pyright: ignore[reportArgumentType]
    return Runs.from_columns(columns)


@unchecked()
def test_eq_2_is_fitted_where_k_varies_or_it_is_asked_for(small_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit.jobs.DEFAULT_LAWS", ("separable", "utilisation"))
    assert any("nothing of its own" in one.reason for one in analyse(small_runs, Options(routers=("Hash",), draws=0)).skipped)
    k = np.where(np.arange(len(small_runs)) % 3 == 0, 2.0, 1.0)
    varied = replace(small_runs, columns={**small_runs.columns, "k": np.where(small_runs.columns[E] > 1, k, 1.0)})
    assert not any("nothing of its own" in one.reason for one in analyse(varied, Options(routers=("Hash",), draws=0)).skipped)
    with pytest.raises(NotIdentifiedError, match="utilisation"):
        analyse(small_runs, Options(laws=("utilisation",), routers=("Hash",), draws=0))


@unchecked()
def test_without_a_ranking_the_law_of_least_residual_standard_error_is_quoted(simulated_runs: Runs) -> None:
    few = simulated_runs.where("dense_parameter_count < 1e8")
    found = analyse(few, Options(laws=("separable", "bilinear", "bounded"), routers=("Hash",), draws=0))
    errors = {one.law.name: np.sqrt(np.sum(one.fit.residuals**2) / one.fit.degrees) for one in found.results}
    assert (found.ranking, found.quoted) == (None, min(errors, key=lambda law: errors[law]))
    assert analyse(few, Options(laws=("dense",), draws=0)).quoted == "dense"


@unchecked()
def test_other_laws_may_have_fewer_draws(simulated_runs: Runs) -> None:
    found = analyse(simulated_runs, Options(laws=("separable", "bilinear"), routers=("Hash",), draws=60, other_draws=25))
    counts = {result.law.name: len(result.draws) for result in found.results if result.draws is not None}
    assert counts == {law: 60 if law == found.quoted else 25 for law in ("separable", "bilinear")}


@unchecked()
def test_wild_clusters_are_drawn_where_runs_of_a_size_err_together_and_only_there() -> None:
    for shared, scheme in ((0.004, "wild-clusters"), (0.0, "residuals")):
        found = analyse(made_runs(shared), Options(laws=("separable",), draws=60, level=0.8))
        assert {result.draws.scheme for result in found.results if result.draws is not None} == {scheme}
        codes = {warning.code for warning in found.result("a", "separable").warnings}
        assert ("clustered-residuals" in codes) is (scheme == "wild-clusters")
    asked = analyse(made_runs(0.004), Options(laws=("separable",), draws=60, level=0.8, scheme="pairs"))
    assert {result.draws.scheme for result in asked.results if result.draws is not None} == {"pairs"}


@unchecked()
def test_routers_are_compared_by_the_interval_of_their_difference() -> None:
    found = analyse(made_runs(), Options(laws=("separable",), draws=300, level=0.9))
    point = Point(1e8, 64.0)
    difference = found.difference("separable", "a", "b", point)
    assert difference is not None
    at = loss_quantity(SEPARABLE, {N: np.array([1e8]), E: np.array([64.0])})
    both = [at(draws.theta, draws.beta)[:, 0] for name in "ab" if (draws := found.result(name, "separable").draws) is not None]
    reach = norm.cdf(-student.ppf(0.95, 27))
    expected = np.quantile(both[0] - both[1], [reach, 1 - reach], method="weibull")
    np.testing.assert_allclose(ends([difference])[:, 0], expected, rtol=1e-9)
    assert found.difference("separable", "a", "missing", point) is None
    assert analyse(made_runs(), Options(laws=("separable",), draws=0)).difference("separable", "a", "b", point) is None


@unchecked()
def test_the_shared_dense_runs_move_both_routers() -> None:
    found = analyse(made_runs(), Options(laws=("separable",), draws=400))
    dense = {N: np.array([1e8]), E: np.array([1.0])}
    curves = [
        r.law.log10_loss(r.draws.theta, r.draws.beta, dense)[:, 0] for r in found.results if r.draws is not None and r.law is SEPARABLE
    ]
    # Six of 30 runs of each are the same; a correlation of 400 independent draws is below 0.1 in 19 of 20.
    assert np.corrcoef(curves)[0, 1] > 0.15


def test_another_column_groups_the_runs() -> None:
    found = analyse(made_runs(routers=("a",)), Options(laws=("separable",), group="group", draws=0))
    routed = {result.router: result.runs.numeric(N)[result.runs[E] > 1] for result in found.results}
    assert {name: (len(sizes), bool((sizes < 1e8).all())) for name, sizes in routed.items()} == {"small": (12, True), "large": (12, False)}
    assert analyse(made_runs(), Options(laws=("separable",), draws=0)).routers == ("a", "b")


def test_fixed_bounds_weights_and_loss_reach_every_law_that_has_them() -> None:
    runs = made_runs()
    options = Options(
        laws=("separable", "bilinear"), draws=0, fixed={"c": 0.0}, bounds={"b": (-1.0, -0.04)}, weights="weight", loss=huber(0.01)
    )
    found = analyse(runs, options)
    for result in found.results:
        assert result.fit.parameters["b"] == pytest.approx(-0.04, rel=1e-9)
        assert result.fit.problem.loss == huber(0.01)
        np.testing.assert_allclose(result.fit.problem.weights, result.runs["weight"] / result.runs["weight"].mean())
    assert found.result("a", "bilinear").fit.parameters["c"] == 0


def test_runs_of_weight_zero_are_left_out_of_fits_and_draws() -> None:
    runs = made_runs()
    weight = np.where(np.arange(len(runs)) % 3 == 1, 0.0, 1.0)
    options = Options(laws=("separable",), draws=50, weights="weight", scheme="wild-clusters")
    found = analyse(replace(runs, columns={**runs.columns, "weight": weight}), options).result("a", "separable")
    assert not (found.runs["weight"] == 0).any()
    assert found.fit.num_runs == len(found.runs)
    assert found.draws is not None
    assert found.draws.failed == 0


def test_a_value_that_a_law_cannot_be_held_at_is_refused_with_the_reason() -> None:
    reason = "no law fitted here has a parameter 'E_max'; .*\nbounded has, and was not fitted: E_max of law 'bounded' lies from 1.053"
    with pytest.raises(InputError, match=reason):
        analyse(made_runs(), Options(laws=("separable", "bounded"), draws=0, fixed={"E_max": 0.0}))


def test_a_law_of_ones_own_is_fitted_beside_those_of_the_catalogue() -> None:
    found = analyse(made_runs(), Options(laws=(CURVED, "separable"), draws=50, level=0.8))
    assert {result.law.name for result in found.results} == {"curved", "separable"}
    assert found.result("a", "curved").law is CURVED
    assert any(name.startswith("epc(") for name in found.result("a", "curved").derived)


def test_figures_outside_the_runs_say_how_far(simulated_runs: Runs) -> None:
    options = Options(laws=("separable",), routers=("Hash",), draws=0, points=(Point(1e8, 2.0), Point(1e10, 2.0), Point(1e8, 1024.0)))
    result = analyse(simulated_runs, options).results[0]
    within, far, many = (result.derived[f"epc({point.label})"] for point in options.points)
    assert not within.extrapolated
    assert far.distance == pytest.approx(max(1e10, far.value) / 1308819456)
    assert many.distance == pytest.approx(max(2.0, many.value / 1308819456))
    assert "extrapolated" in {warning.code for warning in result.warnings}


def test_without_draws_there_are_no_intervals(simulated_runs: Runs) -> None:
    for result in analyse(simulated_runs, Options(laws=("bilinear",), draws=0)).results:
        assert result.draws is None
        figures: list[Estimate] = [*result.coefficients.values(), *result.derived.values()]
        assert {(one.status, one.low, one.high) for one in figures} == {(Status.NOT_ASKED, None, None)}


def test_progress_is_told_from_the_first_fit_to_the_last_interval() -> None:
    seen: list[tuple[int, int, str]] = []
    analyse(made_runs(), Options(laws=("separable", "dense"), draws=0), lambda done, whole, name: seen.append((done, whole, name)))
    assert seen[-1][0] == seen[-1][1]
    assert [name for _, _, name in seen] == ["fits"] * 3 + ["intervals"] * 3


@unchecked()
def test_eq_2_is_fitted_to_all_routers_together_too(simulated_runs: Runs) -> None:
    k = np.where((np.arange(len(simulated_runs)) % 2 == 0) & (simulated_runs.columns[E] > 1), 2.0, 1.0)
    flops = simulated_runs.columns["flops_per_step"] * (1 + 0.3 * (k - 1))
    varied = replace(simulated_runs, columns={**simulated_runs.columns, "k": k, "flops_per_step": flops})
    found = analyse(varied, Options(laws=("utilisation",), draws=0))
    assert [result.router for result in found.results] == ["S-Base", "Hash", "RL-R", POOLED]
    assert len(found.result(POOLED, "utilisation").runs) == len(varied)


@unchecked()
def test_dense_runs_that_routers_share_count_once_in_the_intervals_of_shared_parameters() -> None:
    options = Options(laws=("separable",), shared=("a",), draws=1000, scheme="residuals")
    result = analyse(made_runs(routers=tuple("abcde")), options).result(POOLED, "separable, a shared")
    # Least squares of runs that stand five times: (X'X)^-1 X' S X (X'X)^-1, S one for the same run, wherever it stands.
    x = result.law.features(result.fit.theta, result.fit.problem.data)
    same = result.runs.line_of[:, None] == result.runs.line_of
    assert same.sum() == 5 * 24 + 6 * 5**2
    inner = np.linalg.inv(x.T @ x)
    variances = float(np.sum(result.fit.residuals**2)) / result.fit.degrees * np.diag(inner @ x.T @ same @ x @ inner)
    reach = student.ppf(0.975, result.fit.degrees) * np.sqrt(variances[result.law.coefficients.index("a")])
    figure = result.coefficients["a[a]"]
    low, high = ends([figure])
    # The ends of 1,000 draws are known to 5 % of half the interval; with residuals taken as independent it would be 0.75 of this.
    assert (high - low) / 2 == pytest.approx([reach], rel=0.1)
    assert figure.se is None


def test_routers_in_one_name_share_parameters() -> None:
    options = Options(laws=("separable",), routers=("a, b",), shared=("a",), draws=0)
    result = analyse(made_runs(routers=("a", "b", "c")), options).result(POOLED, "separable, a shared")
    assert len(result.runs) == 2 * 30
    assert result.fit.parameters["a[a]"] == result.fit.parameters["a[b]"]


def test_parameters_that_cannot_be_shared_do_not_make_the_law_undetermined() -> None:
    found = analyse(made_runs(), Options(laws=("floor",), shared=("a",), draws=0))
    assert [(one.router, one.law) for one in found.skipped] == [(POOLED, "floor")]
    assert "do not determine" not in fit_document(found).verdict


def test_default_points_are_the_papers_example_and_the_ends_of_the_runs() -> None:
    n, e = np.array([16527360.0, 1308819456.0]), np.array([1.0, 512.0])
    assert [point.label for point in default_points({N: n, E: e})] == ["5M/E=128", "16.5M/E=64", "1.31B/E=64"]
    assert [point.label for point in default_points({N: n / 10000, E: np.array([1.0, 32.0])})] == ["1.65k/E=32", "131k/E=32"]


def test_a_group_has_its_own_dense_runs_alone() -> None:
    n, e, g = (axis.ravel() for axis in np.meshgrid([1e7, 1e8, 1e9], [1.0, 4.0, 16.0], [0, 1, 2]))
    loss = (3 + g) * n**-0.05 * e**-0.02
    runs = Runs.from_columns({"N": n, "E": e, "set": np.array(["x", "y", "z"])[g.astype(int)], "loss": loss})
    found = analyse(runs, Options(laws=("separable",), group="set", draws=0))
    assert [(result.router, result.fit.num_runs) for result in found.results] == [("x", 9), ("y", 9), ("z", 9)]
    for k, result in enumerate(found.results):
        # Without noise every group has its own constant, exactly but for rounding.
        assert result.fit.parameters["d"] == pytest.approx(np.log10(3 + k), abs=1e-9)


def test_a_group_without_the_router_asked_for_is_named() -> None:
    runs = made_runs()
    apart = replace(runs, columns={**runs.columns, "group": np.where(runs[ROUTER] == "b", "second", "first")})
    with pytest.raises(InputError, match="group first: no runs of router 'b'; the routers there: a"):
        analyse(apart, Options(laws=("separable",), routers=("b",), group="group", draws=0))


def test_resampling_takes_at_least_one_draw(simulated_runs: Runs) -> None:
    result = analyse(simulated_runs, Options(laws=("separable",), routers=("S-Base",), draws=0)).results[0]
    with pytest.raises(InputError, match="at least 1 draw"):
        resample(result.fit, draws=0)
