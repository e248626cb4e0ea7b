"""Other people's files, from the table to the law they came for: the right values were found by SciPy, from many starts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from common.errors import InputError
from fit.analysis import Analysis, Options, analyse
from fit.derived import Point
from fit.engine.losses import huber
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate
from fit.report import fit_document, fit_json
from fit.runs import Runs

ONE_E = {
    "N": [2e7, 4e7, 8e7, 1.6e8, 3.2e8, 6.4e8, 1.3e9, 2.6e9],
    "E": [64] * 8,
    "loss": [3.3995, 3.1594, 2.9977, 2.8370, 2.7048, 2.5920, 2.4830, 2.4080],
}
LADDER = {
    "N": [1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10],
    "D": [2e8, 6e8, 2e9, 6e9, 2e10, 6e10, 2e11],
    "loss": [5.3178, 4.2701, 3.4833, 2.9778, 2.5889, 2.3285, 2.1296],
}
SEVERAL_D = {
    "N": np.repeat([5e7, 2e8, 8e8], 9).tolist(),
    "E": np.tile(np.repeat([1, 8, 64], 3), 3).tolist(),
    "D": [2e9, 1e10, 5e10] * 9,
    "loss": [
        3.3221, 3.0547, 2.8928, 3.1804, 2.8960, 2.7330, 3.0452, 2.7791, 2.5974, 2.9943, 2.7235, 2.5578, 2.8956, 2.6258, 2.4433, 2.8225,
        2.5294, 2.3719, 2.7710, 2.4977, 2.3266, 2.7038, 2.4386, 2.2638, 2.6600, 2.3727, 2.2089,
    ],
}  # fmt: skip


def analysed(columns: Mapping[str, Sequence[float]], law: str = "", draws: int = 20) -> Analysis:
    """The analysis of a table as a stranger would ask for it."""
    return analyse(Runs.from_columns(columns), Options(laws=(law,) if law else (), draws=draws))


def values(analysis: Analysis, router: str, law: str) -> list[float]:
    """The reported parameters."""
    return [figure.value for figure in analysis.result(router, law).coefficients.values()]


def printed(analysis: Analysis) -> str:
    """The first screen's verdict, findings and warnings."""
    document = fit_document(analysis)
    return "\n".join([document.title, document.verdict, *document.findings, *(note.text for note in document.notes)])


def test_routed_runs_of_one_number_of_experts_are_one_architecture() -> None:
    # Fault F5.
    analysis = analysed(ONE_E)
    assert_allclose(values(analysis, "all", "dense-floor"), [1.9265, 68.99, 0.22916], rtol=1e-4)
    assert {result.law.dense for result in analysis.results} == {True}
    with pytest.raises(NotIdentifiedError, match="E is 64 in every run"):
        analysed(ONE_E, "bounded")


def test_a_ladder_offers_the_law_that_it_can_tell() -> None:
    # Fault F11: B was 17,567,899 [5, 5e23].
    analysis = analysed(LADDER)
    assert analysis.quoted == "dense-floor"
    assert_allclose(values(analysis, "Dense", "dense-floor"), [1.688, 484, 0.3037], rtol=1e-3)
    with pytest.raises(NotIdentifiedError, match=r"D is 20 N in every run.*--law dense-floor"):
        analysed(LADDER, "tokens")


def test_where_tokens_vary_the_law_with_tokens_leads_and_the_others_are_warned_of() -> None:
    # Faults F5 and F9.
    analysis = analysed(SEVERAL_D)
    assert analysis.quoted == "tokens-experts"
    assert_allclose(values(analysis, "all", "tokens-experts"), [1.6331, 198.69, 0.29948, 0.08088, 470.6, 0.30307], rtol=2e-4)
    for result in analysis.results:
        first = result.warnings[0].code if result.warnings else ""
        assert (first == "tokens-ignored") is ("tokens_seen" not in result.law.columns)
    assert "tokens vary" in printed(analysis)


def test_experts_are_worth_a_dense_model_of_as_many_tokens() -> None:
    # By hand: L_0 + A N^-a E^-g has the same loss at N E^(g/a) and E = 1, whatever D.
    result = analysed(SEVERAL_D, "tokens-experts").result("all", "tokens-experts")
    figure = result.derived["epc(800M/E=64/D=50B)"]
    a, g = result.coefficients["a"].value, result.coefficients["g"].value
    assert figure.value == pytest.approx(8e8 * 64 ** (g / a), rel=1e-9)


def test_without_a_dense_run_the_worth_of_experts_is_outside_the_runs() -> None:
    # Fault F17: E = 1 itself is extrapolated.
    n, e = np.repeat([2e7, 6e7, 2e8, 6e8], 3), np.tile([4.0, 16, 64], 4)
    loss = 10 ** (1.109 - 0.081 * np.log10(n) - 0.112 * np.log10(e) + 0.0105 * np.log10(n) * np.log10(e))
    loss *= 1 + 0.002 * np.cos(np.arange(12))
    result = analysed({"N": n.tolist(), "E": e.tolist(), "loss": loss.tolist()}, "bilinear").result("all", "bilinear")
    worth = [figure for name, figure in result.derived.items() if name.startswith("epc(")]
    assert worth
    assert all(figure.distance >= 4 for figure in worth)
    assert "extrapolated" in [warning.code for warning in result.warnings]


def test_two_sizes_of_noise_give_no_digits() -> None:
    # Faults F14 and F16: N_c was 3.33e14 [0, 2e92], or a traceback.
    losses = [2.54, 2.53, 2.59, 2.60, 2.53, 2.59, 2.60, 2.55, 2.50, 2.57, 2.56, 2.61, 2.58, 2.53, 2.64, 2.52, 2.60, 2.62, 2.56, 2.41]
    columns = {"N": [2e8, 1e9] * 10, "E": [8] * 20, "loss": losses}
    analysis = analysed(columns, "dense", draws=400)
    size = analysis.result("all", "dense").coefficients["N_c"]
    assert str(size.status) == "not identified"
    assert "e+" not in printed(analysis)
    recorded = fit_json(analysis)["fits"][0]["coefficients"]["N_c"]
    assert recorded["value"] is None
    assert recorded["raw_value"] == size.value


def test_losses_are_predicted_at_the_models_asked_for() -> None:
    n, d = np.repeat([1e7, 1e8, 1e9, 1e10], 4), np.tile([1e9, 3e9, 1e10, 3e10], 4)
    columns = {"N": n.tolist(), "D": d.tolist(), "loss": (1.7 + 400 * n**-0.34 + 410 * d**-0.28).tolist()}
    runs = Runs.from_columns(columns)
    result = analyse(runs, Options(laws=("tokens",), draws=0, points=(Point(70e9, d=1.4e12),))).result("Dense", "tokens")
    assert result.derived["loss(70B/D=1.4T)"].value == pytest.approx(1.7 + 400 * 70e9**-0.34 + 410 * 1.4e12**-0.28, rel=1e-9)
    with pytest.raises(InputError, match=r"they need N, D\nsuch as --at"):
        analyse(runs, Options(laws=("tokens",), draws=0, points=(Point(70e9),)))


def test_what_no_law_here_can_use_is_refused() -> None:
    runs = Runs.from_columns(LADDER)
    with pytest.raises(InputError, match="no law fitted here has a parameter 'c'"):
        analyse(runs, Options(draws=0, fixed={"c": 0.0}))
    with pytest.raises(InputError, match="all runs are dense"):
        analyse(runs, Options(draws=0, routers=("Hash",)))
    with pytest.raises(InputError, match="one router only"):
        analyse(runs, Options(draws=0, shared=("a",)))


def test_a_router_whose_name_has_a_comma_can_be_chosen() -> None:
    # Fault F32.
    e = [1, 2, 4, 8, 16] * 3
    columns = {"N": np.repeat([1e7, 1e8, 1e9], 5).tolist(), "E": e, "router": ["Dense" if one == 1 else "top-1, hard" for one in e]}
    n = np.array(columns["N"])
    columns["loss"] = (10 ** (1.1 - 0.08 * np.log10(n) - 0.05 * np.log10(np.array(e)) + 0.001 * np.sin(np.arange(15)))).tolist()
    analysis = analyse(Runs.from_columns(columns), Options(laws=("separable",), routers=("top-1, hard",), draws=0))
    assert analysis.routers == ("top-1, hard",)


@pytest.mark.parametrize("seed", range(12))
def test_no_small_design_ends_in_a_traceback(seed: int) -> None:
    """1 to 80 rows of few sizes, experts and tokens, of losses with and without a law behind them: results, or three lines at most."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(1, 81))
    n = random.choice(10 ** random.uniform(6, 9.5, int(random.integers(1, 5))), rows)
    d = random.choice(10 ** random.uniform(9, 11, int(random.integers(1, 4))), rows) if seed % 2 else 20 * n
    law = {0: lambda: 1.7 + 400 * n**-0.34 + 400 * d**-0.28, 1: lambda: np.full(rows, 2.5), 2: lambda: np.exp(random.normal(1, 1, rows))}[
        seed % 3
    ]
    columns = {"N": n.tolist(), "loss": (law() + random.uniform(0, 0.01, rows) * (seed % 3 != 1)).tolist()}
    if seed % 4:
        columns["E"] = random.choice([1, 4, 64], rows).tolist()
    if seed % 3:
        columns["D"] = d.tolist()
    message, figures = "", list[Estimate]()
    try:
        analysis = analyse(Runs.from_columns(columns), Options(draws=10, seed=seed, level=0.5))
        fit_document(analysis, full=True)
        figures = [one for result in analysis.results for one in (*result.coefficients.values(), *result.derived.values())]
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 3
    assert all(one.low is None or one.high is None or one.low <= one.value <= one.high for one in figures)


def test_hubers_objective_is_stated_as_the_literature_writes_it() -> None:
    # Fault F30: the sum was twice Besiroglu et al.'s. The oracle is scipy.special.huber.
    n, d = np.repeat([1e7, 1e8, 1e9], 4), np.tile([1e9, 3e9, 1e10, 3e10], 3)
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.01 * np.sin(np.arange(12)))
    analysis = analyse(Runs.from_columns({"N": n, "D": d, "loss": loss}), Options(laws=("tokens",), loss=huber(1e-3), draws=0))
    residuals = np.log(10) * analysis.result("Dense", "tokens").fit.residuals
    assert np.abs(residuals).max() > 1e-3
    stated = fit_json(analysis)["fits"][0]["certificate"]["objective"]
    assert stated == pytest.approx(special.huber(1e-3, residuals).mean(), rel=1e-12)


def test_the_sources_of_dense_runs_are_fitted_apart() -> None:
    n, d = np.repeat([1e7, 1e8, 1e9, 1e10], 4), np.tile([1e9, 3e9, 1e10, 3e10], 4)
    power = 400 * n**-0.34 + 410 * d**-0.28
    columns = {
        "N": np.tile(n, 2),
        "D": np.tile(d, 2),
        "loss": np.concatenate([1.7 + power, 1.0 + power]),
        "source": ["web"] * 16 + ["code"] * 16,
    }
    found = analyse(Runs.from_columns(columns), Options(laws=("tokens",), group="source", draws=0))
    assert {one.router: round(one.coefficients["L_0"].value, 6) for one in found.results} == {"web": 1.7, "code": 1.0}


def test_a_table_of_compute_and_loss_alone_is_asked_by_compute() -> None:
    c = np.geomspace(1e18, 1e22, 9)
    runs = Runs.from_columns({"C": c, "loss": 1.6 + 900 * c**-0.15})
    found = analyse(runs, Options(draws=0, points=(Point(c=1e24),)))
    assert found.quoted == "frontier"
    assert found.result("Dense", "frontier").derived["loss(C=1.0e24)"].value == pytest.approx(1.6 + 900 * 1e24**-0.15, rel=1e-6)
    assert "frontier" in printed(found)


def test_three_sizes_are_too_few_clusters_however_many_draws_there_are() -> None:
    # Fault F13: Webb's six weights have 6^3 = 216 different draws, and Student's t with two degrees of freedom asks for 117,000.
    n, d = np.repeat([1e6, 1e7, 1e8], 4), np.tile([1e9, 3e9, 1e10, 3e10], 3)
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * (1 + 0.01 * np.sin(np.arange(12)))
    options = Options(laws=("tokens",), scheme="wild-clusters", draws=300)
    result = analyse(Runs.from_columns({"N": n, "D": d, "loss": loss}), options).result("Dense", "tokens")
    (message,) = [one.message for one in result.warnings if one.code == "few-clusters"]
    assert message.startswith("3 clusters are too few: 216 different draws do not reach")
    assert not any(figure.known for figure in result.coefficients.values())
    assert "too-few-draws" not in [one.code for one in result.warnings]
