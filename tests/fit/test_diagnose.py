"""What fits leave over, against scipy's analyses of variance; and every warning where its cause is, and not where it isn't."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import f as f_distribution
from scipy.stats import f_oneway

from fit.diagnose import SEVERITIES, FitWarning, Misfit, misfit, seed_noise, warnings_for
from fit.engine.losses import huber
from fit.engine.solve import Fit, fit_law
from fit.estimate import Estimate, Status
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, DENSE, FLOOR, SEPARABLE, UTILISATION, law_named
from fit.runs import Runs
from fit.runs.schema import SEED, E, F, N, P
from fit.select import roll_out
from fit.uncertainty.draws import resample
from tests.checks import unchecked
from tests.fit.designs import LAWS, Sample, bilinear_losses, grid, made_up


def _replicated(seed: int, bend: float = 0.0) -> Sample:
    """A grid of 16 settings, four of them with three seeds; losses from the separable law, bent by `bend`, with noise of 0.001."""
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), [1.0, 4.0, 16.0, 64.0]))
    again = np.concatenate([np.arange(16), [0, 0, 5, 5, 10, 10, 15, 15]])
    n, e = n[again], e[again]
    x = np.log10(n) - 8
    noise = 0.001 * np.random.default_rng(seed).standard_normal(len(n))
    columns = {N: n, E: e, SEED: np.concatenate([np.ones(16), np.tile([2.0, 3.0], 4)])}
    return columns, 10 ** (0.5 - 0.07 * x - 0.03 * np.log10(e) + bend * x**2 + noise)


def _codes(warnings: tuple[FitWarning, ...]) -> list[str]:
    return [warning.code for warning in warnings]


def _one(warnings: tuple[FitWarning, ...], code: str) -> FitWarning:
    (found,) = [warning for warning in warnings if warning.code == code]
    return found


def _figures(fit: Fit, **others: tuple[float, float, float]) -> dict[str, Estimate]:
    own = {name: Estimate(value) for name, value in fit.parameters.items()}
    return own | {name: Estimate(value, low, high, Status.OK) for name, (value, low, high) in others.items()}


def test_noise_is_pooled_over_the_groups_of_replicates() -> None:
    columns, loss = _replicated(0)
    noise = seed_noise(columns, loss)
    # Four groups of three: the pooled variance is the plain mean of theirs.
    groups = [[0, 16, 17], [5, 18, 19], [10, 20, 21], [15, 22, 23]]
    assert noise is not None
    assert (noise.degrees, noise.groups, noise.runs) == (8, 4, 12)
    assert noise.sd_nats == pytest.approx(np.sqrt(np.mean([np.var(loss[g], ddof=1) for g in groups])), rel=1e-12)
    assert noise.sd_log10 == pytest.approx(np.sqrt(np.mean([np.var(np.log10(loss[g]), ddof=1) for g in groups])), rel=1e-12)


def test_runs_alike_in_the_seed_too_are_no_replicates() -> None:
    columns = {E: np.array([8.0, 8.0, 8.0]), SEED: np.array([42.0, 42.0, 42.0])}
    assert seed_noise(columns, np.array([2.5, 2.6, 2.7])) is None
    noise = seed_noise({**columns, SEED: np.array([42.0, 42.0, 1.0])}, np.array([2.5, 2.6, 2.7]))
    assert noise is not None
    assert noise.runs == 2
    assert noise.sd_nats == pytest.approx(np.std([2.5, 2.7], ddof=1))


def test_empty_cells_are_the_same_setting_and_columns_of_ones_own_are_none() -> None:
    columns = {
        "k": np.array([np.nan, np.nan]),
        "router_type": np.array(["Dense"] * 2),
        "my_rate": np.array([0.1, 0.2]),
        SEED: np.array([1.0, 2.0]),
    }
    loss = np.array([2.5, 2.6])
    assert seed_noise(columns, loss) is not None
    assert seed_noise({**columns, "tokens_seen": np.array([1e9, 2e9])}, loss) is None


def test_no_seeds_and_copied_runs_give_no_noise() -> None:
    assert seed_noise({E: np.ones(2)}, np.array([2.5, 2.6])) is None
    assert seed_noise({E: np.ones(2), SEED: np.array([1.0, 2.0])}, np.array([2.5, 2.5])) is None
    assert seed_noise({E: np.array([1.0, 2.0]), SEED: np.array([1.0, 2.0])}, np.array([2.5, 2.6])) is None


def test_the_test_of_lack_of_fit_compares_the_law_with_a_mean_for_every_setting() -> None:
    columns, loss = _replicated(1, bend=0.002)
    found = misfit(fit_law(SEPARABLE, columns, loss), noise=seed_noise(columns, loss))
    # The nested models by plain least squares: three coefficients, or one for each of the 16 settings.
    x, e = np.log10(columns[N]), np.log10(columns[E])
    settings = np.unique(np.stack([x, e]), axis=1, return_inverse=True)[1].reshape(-1)
    y = np.log10(loss)
    rss = [
        float(np.sum((y - m @ np.linalg.lstsq(m, y)[0]) ** 2)) for m in (np.stack([x, e, np.ones_like(x)], axis=1), np.eye(16)[settings])
    ]
    f = (rss[0] - rss[1]) / (16 - 3) / (rss[1] / (24 - 16))
    assert found.seed_p == pytest.approx(f_distribution.sf(f, 13, 8), rel=1e-5)
    assert found.seed_ratio == pytest.approx(np.sqrt(rss[0] / 24) / np.sqrt(rss[1] / 8), rel=1e-9)


@unchecked()
def test_a_true_law_shows_lack_of_fit_as_often_as_the_p_value_says() -> None:
    below: list[bool] = []
    for seed in range(150):
        columns, loss = _replicated(seed)
        p = misfit(fit_law(SEPARABLE, columns, loss), noise=seed_noise(columns, loss)).seed_p
        assert p is not None
        below.append(p < 0.1)
    # Binomial, 150 x 0.1: a standard deviation of 2.4 %; three of them.
    assert np.mean(below) == pytest.approx(0.1, abs=0.073)


def test_a_bend_is_numpys_parabola_and_its_f_test() -> None:
    columns, loss = _replicated(3, bend=0.004)
    fit = fit_law(SEPARABLE, columns, loss)
    bends = misfit(fit).bends
    assert bends is not None
    x, r = np.log10(columns[N]), fit.residuals
    rest = float(np.sum((r - np.polyval(np.polyfit(x - x.mean(), r, 2), x - x.mean())) ** 2))
    total = float(np.sum((r - r.mean()) ** 2))
    share, p = bends[N]
    assert share == pytest.approx(1 - rest / total, rel=1e-9)
    assert p == pytest.approx(f_distribution.sf((total - rest) / 2 / (rest / 21), 2, 21), rel=1e-5)
    assert _one(warnings_for(fit, "x", found=misfit(fit)), "lack-of-fit").severity == "warning"


def test_a_column_of_two_values_has_no_bend() -> None:
    columns, loss = _replicated(4)
    kept = (columns[N] == 1e7) | (columns[N] == 1e9)
    fit = fit_law(SEPARABLE, {name: column[kept] for name, column in columns.items()}, loss[kept])
    assert list(misfit(fit).bends or {}) == [E]


def _clustered(shared: float, seed: int = 0) -> tuple[Fit, Float[np.ndarray, "runs"]]:
    """Runs of six sizes, which share an error of this spread beside noise of 0.001."""
    data = grid(6, 5)
    generator = np.random.default_rng(seed)
    own = shared * generator.standard_normal(6)
    place = np.unique(data[N], return_inverse=True)[1]
    return fit_law(SEPARABLE, data, bilinear_losses(data) * 10 ** own[place]), data[N]


def test_what_runs_of_a_size_share_is_the_intraclass_correlation_and_scipys_f_test() -> None:
    fit, sizes = _clustered(0.001)
    kept = np.arange(30) > 2
    fit = fit_law(SEPARABLE, {name: column[kept] for name, column in fit.problem.data.items()}, 10 ** fit.problem.observed[kept])
    sizes = sizes[kept]
    groups = [fit.residuals[sizes == size] for size in np.unique(sizes)]
    found = misfit(fit, sizes)
    _, p = f_oneway(*groups)
    assert found.alike_p == pytest.approx(p, rel=1e-5)
    # Donner 1986: (MSB - MSW)/(MSB + (m - 1) MSW), m the mean size less its variance's share.
    counts, n, g = np.array([len(group) for group in groups]), len(sizes), len(groups)
    msw = sum(float(np.sum((group - group.mean()) ** 2)) for group in groups) / (n - g)
    msb = sum(len(group) * (group.mean() - fit.residuals.mean()) ** 2 for group in groups) / (g - 1)
    m = (n - np.sum(counts**2) / n) / (g - 1)
    assert found.alike == pytest.approx((msb - msw) / (msb + (m - 1) * msw), rel=1e-9)


def test_clustered_residuals_are_called_so_where_runs_of_a_size_err_together_and_only_there() -> None:
    together, apart = (misfit(*_clustered(shared)) for shared in (0.004, 0.0))
    assert together.clustered
    assert not apart.clustered
    fit, _ = _clustered(0.004)
    assert _one(warnings_for(fit, "x", found=together), "clustered-residuals").severity == "warning"
    assert "clustered-residuals" not in _codes(warnings_for(fit, "x", found=apart))
    # Either of the two alone is not enough.
    assert not Misfit(alike=0.1, alike_p=1e-6).clustered
    assert not Misfit(alike=0.9, alike_p=0.02).clustered


def test_one_run_of_each_size_or_one_size_shares_nothing() -> None:
    n = np.geomspace(1e7, 1e9, 12)
    fit = fit_law(DENSE, {N: n}, 10 ** (1 - 0.07 * np.log10(n)))
    assert (misfit(fit, n).alike, misfit(fit, np.ones(12)).alike, misfit(fit).alike) == (None, None, None)


def test_a_good_fit_has_no_warning() -> None:
    data = grid()
    fit = fit_law(SEPARABLE, data, bilinear_losses(data))
    figures = _figures(fit, a=(-0.07, -0.071, -0.069), b=(-0.03, -0.031, -0.029))
    assert (
        warnings_for(fit, "x", draws=resample(fit, draws=100), found=misfit(fit, data[N]), figures=figures, steps=roll_out(fit, data[N]))
        == ()
    )


def test_no_right_fit_of_any_law_is_warned_of_its_optimum(fitted: Callable[[str, str], Fit]) -> None:
    for law in LAWS:
        for loss in ("log", "huber:0.01"):
            assert not {"not-converged", "not-confirmed", "not-identified"} & set(_codes(warnings_for(fitted(law.name, loss), "x")))


def test_warnings_come_worst_first_and_name_their_fit() -> None:
    columns, loss = _replicated(1, bend=0.02)
    fit = fit_law(SEPARABLE, columns, loss)
    sizes = columns[N]
    figures = {"epc": Estimate(1.0, distance=3.0), "b": Estimate(0.1)}
    noise = seed_noise(columns, loss)
    found = warnings_for(fit, "S-Base separable", found=misfit(fit, sizes, noise), figures=figures, steps=roll_out(fit, sizes))
    assert {warning.about for warning in found} == {"S-Base separable"}
    places = [SEVERITIES.index(warning.severity) for warning in found]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2}
    assert [_one(found, code).severity for code in ("held-out-failure", "wrong-sign", "extrapolated")] == ["error", "warning", "note"]
    assert _codes(found).count("lack-of-fit") == 2


def test_a_law_whose_intervals_miss_most_of_the_largest_size_fails_on_held_out_runs() -> None:
    columns, loss = _replicated(1, bend=0.02)
    fit = fit_law(SEPARABLE, columns, loss)
    steps = roll_out(fit, columns[N])
    (last,) = [step for step in steps if step.size == 1e9]
    assert last.score is not None
    message = _one(warnings_for(fit, "x", steps=steps), "held-out-failure").message
    assert f"hold {last.score.covered} of {last.score.runs} runs at " in message
    good, right = _replicated(1)
    assert "held-out-failure" not in _codes(warnings_for(fit, "x", steps=roll_out(fit_law(SEPARABLE, good, right), good[N])))


def test_an_interval_of_e_max_that_spans_more_than_the_runs_is_wide(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("bounded", "log")
    wide = warnings_for(fit, "x", figures=_figures(fit, E_max=(300.0, 0.5, 1100.0)))
    assert "spans a larger ratio than the runs' number of experts" in _one(wide, "wide-interval").message
    far = warnings_for(fit, "x", figures=_figures(fit, E_max=(300.0, 200.0, 1100.0)))
    assert "reaches beyond the largest number of experts of the runs" in _one(far, "wide-interval").message
    assert "wide-interval" not in _codes(warnings_for(fit, "x", figures=_figures(fit, E_max=(300.0, 200.0, 1000.0))))


def test_the_range_of_b_is_that_of_p_over_f(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("utilisation", "log")
    largest = float(2**20 * np.max(fit.problem.data[P] / fit.problem.data[F]))
    for high, expected in ((1.01 * largest, True), (0.99 * largest, False)):
        found = warnings_for(fit, "x", figures=_figures(fit, B_max=(0.9 * largest, 0.8 * largest, high)))
        assert ("wide-interval" in _codes(found)) is expected
    assert fit.law is UTILISATION


def test_a_floor_known_to_no_better_than_the_losses_range_is_wide(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("floor", "log")
    span = float(np.ptp(10**fit.problem.observed))
    for length, expected in ((1.01 * span, True), (0.99 * span, False)):
        found = warnings_for(fit, "x", figures=_figures(fit, L_0=(0.5, 0.1, 0.1 + length)))
        assert ("wide-interval" in _codes(found)) is expected
    assert fit.law is FLOOR


def test_an_unexpected_sign_is_named_whether_estimated_or_not_excluded() -> None:
    data = grid()
    hurt = fit_law(SEPARABLE, data, bilinear_losses(data, b=0.03))
    assert "where a negative value is expected" in _one(warnings_for(hurt, "x", figures=_figures(hurt)), "wrong-sign").message
    fit = fit_law(SEPARABLE, data, bilinear_losses(data))
    doubtful = _one(warnings_for(fit, "x", figures=_figures(fit, b=(-0.03, -0.07, 0.01))), "sign-not-shown")
    assert doubtful.message == "the 95% interval of b, -0.07 to 0.01, does not exclude zero"
    assert doubtful.severity == "note"
    assert not {"wrong-sign", "sign-not-shown"} & set(_codes(warnings_for(fit, "x", figures=_figures(fit))))


def test_few_runs_say_how_well_the_noise_is_known() -> None:
    n = np.geomspace(1e7, 1e9, 4)
    loss = 10 ** (1.0 - 0.07 * np.log10(n) + np.array([0.001, -0.001, 0.001, -0.001]))
    message = _one(warnings_for(fit_law(DENSE, {N: n}, loss), "x"), "few-runs").message
    assert message == "4 runs for 2 parameters leave 2 degrees of freedom: the noise is known to 50% at best"
    two = fit_law(DENSE, {N: n[:2]}, loss[:2])
    assert "0 degrees of freedom: there are no intervals" in _one(warnings_for(two, "x"), "no-degrees").message


def test_few_residuals_are_noted_where_they_are_what_is_drawn() -> None:
    n = np.geomspace(1e7, 1e9, 8)
    fit = fit_law(DENSE, {N: n}, 10 ** (1.0 - 0.07 * np.log10(n) + 0.001 * np.random.default_rng(0).standard_normal(8)))
    assert "few-residuals" in _codes(warnings_for(fit, "x", draws=resample(fit, draws=40)))
    assert "few-residuals" not in _codes(warnings_for(fit, "x", draws=resample(fit, "pairs", 40)))


def test_failed_draws_are_a_note_below_the_share_an_interval_leaves_out_and_an_error_above() -> None:
    data = grid(3, 3)
    fit = fit_law(BILINEAR, data, bilinear_losses(data))
    draws = resample(fit, "pairs", 400)
    assert draws.failed > 0
    share = draws.failed / 400
    above, below = (warnings_for(fit, "x", draws=draws, level=level) for level in (1 - share, 1 - 3 * share))
    assert _one(above, "not-identified").severity == "error"
    assert _one(above, "not-identified").message == f"of 400 draws {draws.failed} do not identify the law: no intervals"
    assert _one(below, "failed-draws").severity == "note"


def test_parameters_that_the_runs_hardly_tell_apart_are_ill_conditioned() -> None:
    # Sizes that differ in the sixth digit: slope and intercept of the dense law move nearly as one; ten times as far apart, less so.
    for step, expected in ((1e-6, ["ill-conditioned"]), (1e-5, [])):
        fit = fit_law(DENSE, {N: 1e8 * (1 + step * np.arange(20))}, 2.5 + 0.001 * np.sin(np.arange(20.0)))
        assert fit.certificate.identified
        assert _codes(warnings_for(fit, "x")) == expected


def test_laws_without_tokens_are_warned_of_where_tokens_vary_and_only_there() -> None:
    n = np.geomspace(1e7, 1e9, 14)
    fit = fit_law(DENSE, {N: n}, 10 ** (1.0 - 0.07 * np.log10(n) + 0.001 * np.sin(np.arange(14))))
    warning = _one(warnings_for(fit, "x", tokens=np.geomspace(1e9, 3e9, 14)), "tokens-ignored")
    assert warning.message == "tokens differ 3 times among the runs, and law dense has none: its parameters hold what tokens did"
    for tokens in (None, np.full(14, 1e9)):
        assert "tokens-ignored" not in _codes(warnings_for(fit, "x", tokens=tokens))
    for law in ("tokens", "frontier"):
        with_tokens = fit_law(law_named(law), *made_up(law_named(law)))
        assert "tokens-ignored" not in _codes(warnings_for(with_tokens, "x", tokens=np.geomspace(1e9, 3e9, with_tokens.num_runs)))


def test_the_test_against_seeds_is_for_squared_log_loss_alone() -> None:
    columns, loss = _replicated(5)
    found = misfit(fit_law(SEPARABLE, columns, loss, huber()), noise=seed_noise(columns, loss))
    assert found.seed_p is None
    assert found.seed_ratio is not None


def test_noise_between_the_releases_dense_130m_seeds_is_0_00067_nats_and_eq_1_misses_by_29_times_that(
    released_runs: Runs, released: Callable[[str], Sample]
) -> None:
    noise = seed_noise(released_runs.columns, released_runs.loss)
    assert noise is not None
    assert (noise.degrees, noise.groups, noise.runs) == (2, 1, 3)
    assert noise.sd_nats == pytest.approx(0.00067, abs=5e-6)
    data, loss = released("S-Base")
    found = misfit(fit_law(BOUNDED, data, loss), data[N], noise)
    assert found.seed_ratio == pytest.approx(29.4, abs=0.1)
    assert found.clustered
    assert (found.bends or {})[N][0] > 0.75
    assert (misfit(fit_law(BOUNDED_FLOOR, data, loss), data[N], noise).bends or {})[N][0] < 0.1
