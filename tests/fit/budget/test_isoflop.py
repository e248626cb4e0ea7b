"""IsoFLOP profiles: minima and lines against NumPy's polynomials, what is left out and why, coverage, and approach 2 beside approach 3."""

import numpy as np
import pytest
from jaxtyping import Float

from common.errors import InputError
from fit.budget.isoflop import IsoFLOP, compare_approaches, isoflop
from fit.errors import NotIdentifiedError
from fit.estimate import Status
from fit.laws import TOKENS
from fit.runs import Runs
from fit.runs.schema import D, N

BESIROGLU = np.array([0.3478, 0.3658]), np.array([1.8172, 482.01, 2085.43])
"""The law `tokens` as Besiroglu et al. 2024 refit it."""

BUDGETS = np.geomspace(6e18, 3e21, 6)


def _table(n: Float[np.ndarray, "runs"], c: Float[np.ndarray, "runs"], loss: Float[np.ndarray, "runs"]) -> Runs:
    return Runs.from_columns({N: n, D: c / (6 * n), "loss_validation": loss})


def parabolas(exponent: float = 0.46) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "runs"], Float[np.ndarray, "runs"]]:
    """N, C and losses of runs that lie on parabolas exactly, with minima at 0.3 C^exponent and losses there of 2 + 30 C^-0.08."""
    n, c = list[float](), list[float]()
    for k, budget in enumerate(BUDGETS):
        # Sizes about the minimum, but not evenly: more above it than below.
        sizes = 0.3 * budget**exponent * np.geomspace(0.3, 6, 5 + k)
        n, c = [*n, *sizes.tolist()], [*c, *[float(budget)] * len(sizes)]
    sizes, budgets = np.array(n), np.array(c)
    return sizes, budgets, 2 + 30 * budgets**-0.08 + 0.05 * (np.log(sizes) - np.log(0.3 * budgets**exponent)) ** 2


def profiles_of_a_law(width: float, sizes: int, noise: float, seed: int, last: float | None = None) -> Runs:
    """IsoFLOP profiles of Besiroglu's law, from 1/width to width times 1.2 times the best size of each budget.

    `noise` of the loss, relatively; from the first budget's to that of the `last`, if given.
    """
    n = np.concatenate([1.2 * 0.0888 * budget**0.5126 * np.geomspace(1 / width, width, sizes) for budget in BUDGETS])
    c = np.repeat(BUDGETS, sizes)
    loss = 10 ** TOKENS.log10_loss(*BESIROGLU, {N: n, D: c / (6 * n)})
    spread = np.repeat(np.geomspace(noise, last or noise, 6), sizes) if noise else 0.0
    return _table(n, c, loss * np.exp(spread * np.random.default_rng(seed).standard_normal(len(n))))


def test_exact_parabolas_give_their_minima_and_the_line_through_them() -> None:
    n, c, loss = parabolas()
    order = np.random.default_rng(0).permutation(len(n))
    found = isoflop(_table(n[order], c[order], loss[order]), draws=0)
    assert [one.runs for one in found.profiles] == [5, 6, 7, 8, 9, 10]
    # Rounding of losses of 1e-16 under a curvature of 0.05 moves a minimum by 1e-15 or so of its logarithm, on a scale of 20.
    np.testing.assert_allclose([one.flops for one in found.profiles], BUDGETS, rtol=1e-12)
    np.testing.assert_allclose([one.n.value for one in found.profiles], 0.3 * BUDGETS**0.46, rtol=1e-11)
    np.testing.assert_allclose([one.d.value for one in found.profiles], BUDGETS**0.54 / 1.8, rtol=1e-11)
    np.testing.assert_allclose([one.loss.value for one in found.profiles], 2 + 30 * BUDGETS**-0.08, rtol=1e-13)
    np.testing.assert_allclose([found.exponent_n.value, found.exponent_d.value], [0.46, 0.54], rtol=1e-11)
    n_at, d_at = found.optimum(1e23)
    np.testing.assert_allclose([n_at.value, d_at.value], [0.3 * 1e23**0.46, 1e23**0.54 / 1.8], rtol=1e-10)
    assert n_at.distance == d_at.distance == pytest.approx(1e23 / 3e21, rel=1e-12)
    assert n_at.status is found.exponent_n.status is Status.NOT_ASKED


def test_noisy_profiles_have_the_minima_of_numpys_polynomials() -> None:
    runs = profiles_of_a_law(4, 7, 0.003, 1)
    found = isoflop(runs, draws=0)
    minima: list[float] = []
    for one in range(6):
        place = slice(7 * one, 7 * one + 7)
        w, v, _ = np.polyfit(np.log(runs[N][place]) - 20, runs.loss[place], 2)
        minima.append(20 - v / (2 * w))
    # Both solve least squares with three digits lost to the condition of a parabola about another centre.
    np.testing.assert_allclose(np.log([one.n.value for one in found.profiles]), minima, rtol=1e-11)
    slope = np.polyfit(np.log([one.flops for one in found.profiles]), minima, 1)[0]
    assert found.exponent_n.value == pytest.approx(slope, rel=1e-10)
    assert found.exponent_n.value + found.exponent_d.value == pytest.approx(1, abs=1e-12)


def test_given_compute_groups_the_runs_and_a_budget_may_be_met_inexactly() -> None:
    n, c, loss = parabolas()
    off = c * np.exp(np.random.default_rng(0).uniform(0, 0.09, len(c)))
    given = Runs.from_columns({N: n, "training_flops": off, "loss_validation": loss})
    found = isoflop(given, draws=0)
    assert [one.runs for one in found.profiles] == [5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose([one.n.value for one in found.profiles], 0.3 * BUDGETS**0.46, rtol=1e-11)
    np.testing.assert_allclose([one.flops for one in found.profiles], BUDGETS, rtol=0.09)
    # Without tokens D follows from C = 6 N D.
    np.testing.assert_allclose([one.n.value * one.d.value * 6 / one.flops for one in found.profiles], 1, rtol=1e-12)
    # Tokens that are there are believed, whatever the compute was counted by.
    both = Runs.from_columns({N: n, D: c / (9 * n), "training_flops": c, "loss_validation": loss})
    np.testing.assert_allclose([one.d.value for one in isoflop(both, draws=0).profiles], BUDGETS**0.54 / 2.7, rtol=1e-11)
    apart = Runs.from_columns({N: n, "training_flops": 1e18 * 1.2 ** np.arange(len(n)), "loss_validation": loss})
    with pytest.raises(NotIdentifiedError, match="none of 45 training budgets"):
        isoflop(apart, draws=0)


def test_budgets_without_a_minimum_are_left_out_with_the_reason() -> None:
    n, c, loss = parabolas()
    few = np.where(c == BUDGETS[0])[0][3:]
    above = (c == BUDGETS[3]) & (n < 0.3 * BUDGETS[3] ** 0.46)
    down = np.where(c == BUDGETS[2], 9 - loss, loss)
    # Two more runs of sizes that are there: the first budget still has three sizes.
    more = np.where(c == BUDGETS[0])[0][:2]
    kept = np.concatenate([np.setdiff1d(np.arange(len(n)), np.union1d(few, np.where(above)[0])), more])
    found = isoflop(_table(n[kept], c[kept], down[kept]), draws=50)
    assert [one.flops for one in found.profiles] == pytest.approx(BUDGETS[[1, 4, 5]].tolist())
    reasons = [one.reason for one in found.left_out]
    assert reasons[0] == "3 sizes, and a parabola and its error take 4"
    assert reasons[1] == "the parabola opens downward"
    lowest = 0.3 * BUDGETS[3] ** 0.46
    assert reasons[2].startswith(f"the minimum, {lowest:.3g} parameters, lies outside the runs, ")
    assert [one.runs for one in found.left_out] == [5, 7, 5]
    table = found.table()
    assert table.filter(table["figure"] == "left out")["status"].to_list() == reasons
    assert len(table) == 2 + 3 * 3 + 3
    assert len(repr(found)) < 140


def test_runs_that_are_no_profiles_are_refused_in_a_line() -> None:
    n = np.geomspace(1e7, 1e9, 9)
    with pytest.raises(NotIdentifiedError, match=r"none of 9 training budgets has a minimum of loss in N; .* 1 sizes"):
        isoflop(_table(n, 120 * n**2, 2 + 40 * n**-0.2))
    with pytest.raises(InputError, match="tokens_seen"):
        isoflop(Runs.from_columns({N: n, "loss_validation": 2 + 40 * n**-0.2}))


def test_draws_are_those_of_their_seed_and_of_the_runs_whatever_else_is_in_the_table() -> None:
    runs = profiles_of_a_law(4, 7, 0.003, 1)
    found, again, other = (isoflop(runs, draws=100, seed=seed) for seed in (5, 5, 6))
    assert found.exponent_n == again.exponent_n
    assert found.exponent_n.low != other.exponent_n.low
    # Three runs more, of a budget that is left out: the others keep their random numbers.
    table = {name: np.append(runs[name], runs[name][:3] * (1 + 9 * (name == N))) for name in (N, D, "loss_validation")}
    assert isoflop(Runs.from_columns(table), draws=100, seed=5).exponent_n == found.exponent_n
    assert found.exponent_n.status is Status.OK
    for one in found.profiles:
        for figure in (one.n, one.d, one.loss):
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low < figure.value < figure.high


@pytest.mark.parametrize(("last", "scheme"), [(None, "residuals"), (0.0005, "wild")])
def test_residuals_of_uneven_spread_are_drawn_wild(last: float | None, scheme: str) -> None:
    found = isoflop(profiles_of_a_law(4, 7, 0.006, 0, last), draws=10)
    assert found.draws is not None
    assert found.draws.scheme == scheme


def test_one_budget_has_a_minimum_and_no_exponent() -> None:
    runs = profiles_of_a_law(4, 9, 0.001, 1)
    found = isoflop(runs.keep(runs[D] * runs[N] < 1.1e18, "one budget"), draws=200)
    assert len(found.profiles) == 1
    assert found.profiles[0].n.status is Status.OK
    assert found.exponent_n.status is Status.NOT_IDENTIFIED


def test_draws_that_open_downward_count_as_failed() -> None:
    """The last budget's parabola is flat: over 2.5 % of its draws have no minimum, and no figure that rests on it has an interval."""
    n, c, loss = parabolas()
    last = c == BUDGETS[-1]
    flat = np.where(last, 2 + 30 * c**-0.08 + (loss - 2 - 30 * c**-0.08) * 0.02, loss)
    found = isoflop(_table(n, c, flat * np.exp(0.002 * np.random.default_rng(3).standard_normal(len(n)))), draws=400)
    assert found.draws is not None
    lost = np.mean(found.draws.beta[:, -1] <= 0)
    assert 0.025 < lost < 0.5
    assert found.exponent_n.status is Status.NOT_IDENTIFIED
    assert found.profiles[-1].n.status is Status.NOT_IDENTIFIED
    assert found.profiles[0].n.status is Status.OK


def test_approach_2_disagrees_with_the_law_where_the_runs_do_and_agrees_where_they_follow_it() -> None:
    follows = compare_approaches(isoflop(profiles_of_a_law(3, 7, 0.002, 0), draws=400), 1e22)
    assert follows.disagree == ()
    assert follows.differences["n"].value == pytest.approx(
        follows.profiles.optimum(1e22)[0].value / follows.allocation.optima[0].n.value, rel=1e-12
    )
    assert follows.differences["exponent_n"].value == pytest.approx(
        follows.profiles.exponent_n.value - follows.allocation.exponent_n.value, abs=1e-12
    )
    table = follows.table()
    assert table["approach"].unique(maintain_order=True).to_list() == ["2", "3", "2 and 3"]
    assert table.shape == (12, 10)
    # Losses that no sum of powers has: their parabolas are as wide at every budget, and their minima lie on a line that bends none of it.
    n, c, loss = parabolas(0.7)
    apart = compare_approaches(
        isoflop(_table(n, c, loss * np.exp(1e-4 * np.random.default_rng(0).standard_normal(len(n)))), draws=400), 1e23
    )
    assert "n" in apart.disagree
    assert "disagree about: " in repr(apart)


def test_both_approaches_draw_the_same_errors_so_that_the_variance_of_their_difference_is_that_of_theirs() -> None:
    runs = profiles_of_a_law(4, 7, 0.003, 2)
    # In no order: a run has its random numbers by its place in the table, not in its budget.
    order = np.random.default_rng(1).permutation(len(runs))
    shuffled = Runs.from_columns({name: runs[name][order] for name in (N, D, "loss_validation")})
    found = compare_approaches(isoflop(shuffled, draws=800), 1e22)
    own, law, between = found.profiles.exponent_n, found.allocation.exponent_n, found.differences["exponent_n"]
    width = [one.high - one.low for one in (own, law, between) if one.low is not None and one.high is not None]
    assert len(width) == 3
    # The law is efficient for runs that follow it, so that variances subtract (Hausman 1978); apart, they would add, to 1.45 times as much.
    # Widths of 800 draws are known to 4 %, their squares to 8.
    assert width[2] ** 2 == pytest.approx(width[0] ** 2 - width[1] ** 2, rel=0.2)


def test_without_draws_a_comparison_has_figures_and_no_verdict() -> None:
    found = compare_approaches(isoflop(profiles_of_a_law(4, 7, 0.003, 2), draws=0), 1e22)
    assert {one.status for one in found.differences.values()} == {Status.NOT_ASKED}
    assert found.disagree == ()
    assert found.differences["n"].value > 0


def _covered(found: IsoFLOP, truth: float) -> bool:
    one = found.exponent_n
    return one.low is not None and one.high is not None and one.low <= truth <= one.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "sizes", "noise", "last"),
    [(4.0, 7, 0.003, None), (4.0, 5, 0.003, None), (6.0, 9, 0.003, None), (4.0, 7, 0.006, 0.001), (4.0, 7, 0.001, 0.006)],
)
def test_intervals_hold_the_exponent_of_noise_free_profiles_as_often_as_they_say(
    width: float, sizes: int, noise: float, last: float | None
) -> None:
    """Noise that grows with compute by six: drawn as residuals of one spread, intervals were measured to hold the exponent in 84 %."""
    truth = isoflop(profiles_of_a_law(width, sizes, 0.0, 0), draws=0).exponent_n.value
    found = [isoflop(profiles_of_a_law(width, sizes, noise, seed, last), draws=200) for seed in range(200)]
    known = [_covered(one, truth) for one in found if one.exponent_n.known]
    # Large noise leaves some without a minimum in over 2.5 % of their draws, and so without an interval.
    assert len(known) > 150
    # 95 % of 200, less three binomial standard errors of 1.5 % and a point for ends read off 200 draws.
    assert np.mean(known) > 0.895
