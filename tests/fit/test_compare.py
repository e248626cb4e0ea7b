"""Comparing laws: which answers survive a change of law, the chance of the best router, and what is printed."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import fit
from common.document.terminal import terminal
from fit.analysis import Options
from fit.compare import ALL, Agreement, Answer, Comparison, Verdict, agreements, chance, compare, compare_document, compare_json, verdict
from fit.derived import Point
from fit.estimate import Estimate, Status
from fit.runs import Runs
from fit.runs.schema import E, N
from fit.uncertainty.draws import WEBB, raised_residuals
from tests.checks import unchecked

DOCS = Path(__file__).parents[2] / "docs" / "json.md"


def figure(value: float, low: float, high: float, limit: float = np.inf) -> Answer:
    """An answer that is a figure with an interval."""
    return Answer("EPC/N", "S-Base", "law", "", Estimate(value, low, high, Status.OK), limit)


def word(says: str) -> Answer:
    """An answer that is a word."""
    return Answer("Experts help", "S-Base", "law", says, Estimate(1.0))


NO_INTERVAL = Answer("EPC/N", "S-Base", "law", "", Estimate(4.0))
TIGHT, BESIDE, FAR, WIDE = figure(4.0, 3.8, 4.2), figure(4.1, 3.9, 4.4), figure(9.0, 8.5, 9.5), figure(4.0, 1.0, 20.0)


@pytest.mark.parametrize(
    ("best", "others", "expected"),
    [
        ([word("yes"), word("yes")], [word("yes")], "every law"),
        ([word("yes")], [word("unknown")], "best laws"),
        ([word("yes")], [word("no")], "best laws"),
        ([word("yes"), word("no")], [word("yes")], "depends on the law"),
        ([word("yes"), word("unknown")], [], "depends on the law"),
        ([word("unknown"), word("unknown")], [word("yes")], "unknown"),
        ([], [word("yes")], "depends on the law"),
        ([TIGHT, BESIDE], [figure(3.9, 3.6, 4.0)], "every law"),
        ([TIGHT, BESIDE], [FAR], "best laws"),
        ([TIGHT, FAR], [], "depends on the law"),
        ([NO_INTERVAL], [], "unknown"),
        # Disjoint, and too close to matter to anyone.
        ([figure(4.0, 3.9, 4.1), figure(4.5, 4.4, 4.6)], [], "every law"),
    ],
)
def test_verdict_is_what_the_answers_have_in_common(best: list[Answer], others: list[Answer], expected: Verdict) -> None:
    assert verdict(best, others) == expected


def test_intervals_that_agree_because_they_are_wide_survive_nothing() -> None:
    assert verdict([WIDE, TIGHT]) == verdict([WIDE]) == "unknown"
    # Among the other laws a wide one keeps the answer from holding under every law.
    assert verdict([TIGHT], [WIDE]) == "best laws"


def test_figures_beyond_the_data_agree_and_are_given_in_words() -> None:
    far = [figure(1e44, 7e18, np.inf, 1e12), figure(3e15, 4e13, 8e18, 1e12)]
    assert verdict(far) == "every law"
    assert Agreement("N_cutoff", "S-Base", "every law", tuple(far), (), ()).answer == "beyond 1T"
    assert verdict([figure(1e44, 1e10, np.inf, 1e12)]) == "unknown"


def test_laws_without_an_answer_are_named_as_abstaining() -> None:
    found = [replace(word("yes"), law="a"), replace(word("yes"), law="b", question="Gain falls with N"), replace(word("yes"), law="b")]
    by_question = {one.question: one for one in agreements(found, ("a", "b"))}
    assert by_question["Experts help"].abstain == ()
    assert by_question["Gain falls with N"].abstain == ("a",)


@pytest.fixture(scope="module")
def toy() -> Runs:
    """Two routers whose losses are nearly the same, at two sizes, with dense runs that they share."""
    n, e = (axis.ravel() for axis in np.meshgrid([1e7, 1e8], [1.0, 4.0, 16.0, 64.0]))
    routed = e > 1
    n, e = np.concatenate([n, n[routed]]), np.concatenate([e, e[routed]])
    router = np.array(["Dense" if x == 1 else "A" for x in e[:8]] + ["B"] * 6)
    # Of 30 seeds one where draws that are not paired would give another share: 0.54 in place of 0.75.
    noise = np.random.default_rng(11).normal(0, 0.004, len(n))
    loss = 10 ** (1.1 - 0.08 * np.log10(n) - 0.04 * np.log10(e) + noise)
    return Runs.from_columns({"N": n, "E": e, "router": router, "loss_validation": loss})


def test_chance_of_a_router_is_its_share_among_all_signs_of_two_clusters(toy: Runs) -> None:
    analysis = fit.analyse(toy, Options(laws=("separable",), scheme="wild-clusters", draws=4000))
    results, point = analysis.of_law("separable"), Point(1e8, 64.0)
    wins = 0
    for signs in product(WEBB, repeat=2):
        predicted: list[float] = []
        for result in results:
            n, e = (np.log10(result.fit.problem.data[name]) for name in ("dense_parameter_count", "num_experts"))
            features = np.stack([n, e, np.ones_like(n)], axis=-1)
            cluster = (n > 7.5).astype(int)
            observed = features @ result.fit.beta + np.array(signs)[cluster] * raised_residuals(result.fit, cluster)
            predicted.append(float(np.array([8.0, np.log10(64), 1.0]) @ np.linalg.lstsq(features, observed)[0]))
        wins += predicted[0] < predicted[1]
    exact = wins / 36
    assert exact == 0.75
    # Four standard errors of a share among 4,000 draws.
    assert chance(results, point)[results[0].router] == pytest.approx(exact, abs=4 * 0.5 / 4000**0.5)


@pytest.fixture(scope="module")
@unchecked()
def small(small_runs: Runs) -> Comparison:
    """Three quick laws on the small runs, with few draws."""
    return compare(small_runs, Options(laws=("separable", "bilinear", "bounded"), routers=("S-Base", "Hash"), draws=60, other_draws=40))


def test_only_the_quoted_law_has_all_draws(small: Comparison) -> None:
    draws = {r.law.name: len(r.draws) for r in small.analysis.results if r.draws is not None}
    quoted = small.analysis.quoted
    assert draws == {law: 60 if law == quoted else 40 for law in draws}
    assert set(draws.values()) == {60, 40}


def test_draws_of_other_laws_are_noted_only_where_there_are_any(small: Comparison, small_runs: Runs) -> None:
    assert compare_document(small).notes[-1].text == f"60 draws under {small.analysis.quoted}, 40 under the others"
    alone = compare(small_runs, Options(laws=("separable",), routers=("Hash",), draws=20))
    assert compare_document(alone).notes[-1].text == "20 draws under separable"


def test_every_law_answers_every_question_it_has_a_term_for(small: Comparison) -> None:
    asked = {(one.question, answer.law) for one in small.agreements if one.router == "S-Base" for answer in (*one.best, *one.others)}
    assert {law for question, law in asked if question == "Experts help"} == {"separable", "bilinear", "bounded"}
    assert {law for question, law in asked if question == "N_cutoff"} == {"bilinear", "bounded"}
    assert sum(one.router == ALL for one in small.agreements) == len(small.analysis.options.points)


@pytest.mark.parametrize("law", ["per-size", "utilisation"])
def test_laws_that_answer_no_question_are_refused(law: str, small_runs: Runs) -> None:
    with pytest.raises(fit.InputError, match="nothing to compare: no law asked for is one in N and E, in k/E or G"):
        compare(small_runs, Options(laws=(law,), draws=0))


@pytest.fixture(scope="module")
@unchecked()
def dense() -> Comparison:
    """Dense runs of five sizes and four numbers of tokens."""
    n, d = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 3e9, 1e10, 3e10]))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    return compare(Runs.from_columns({"N": n, "D": d, "loss": loss}), Options(draws=200, level=0.9))


def test_dense_laws_answer_what_they_have_terms_for(dense: Comparison) -> None:
    # Fault F25: "no laws of routing to compare".
    asked = {(one.question, answer.law) for one in dense.agreements for answer in (*one.best, *one.others)}
    ratios = {question for question, _ in asked if question.startswith("Optimal D/N")}
    assert ratios == {"Optimal D/N, 1.8e20 FLOPs", "Optimal D/N, 1.8e22 FLOPs"}
    assert {law for question, law in asked if question == "Floor L_0"} == {"tokens", "dense-floor"}
    assert {law for question, law in asked if question == "Exponent of N"} == {"tokens", "dense-floor", "dense"}
    assert {law for question, law in asked if question == "Exponent of D"} == {"tokens"}
    assert {law for question, law in asked if question == "Loss 1B/D=30B"} == {"tokens", "dense-floor", "dense"}
    assert {law for question, law in asked if question in ratios} == {"tokens"}


def test_dense_laws_answer_with_the_truth(dense: Comparison) -> None:
    answers = {one.question: answer.figure for one in dense.agreements for answer in one.best if answer.law == "tokens"}
    n, d = 1e9 * 10**0.5, 3e10 * 10**0.5
    a, b = 0.34, 0.28
    truth = {"Floor L_0": 1.7, "Exponent of N": a, "Exponent of D": b, "Loss 3.16B/D=94.9B": 1.7 + 400 * n**-a + 410 * d**-b}
    # D/N = (C/6)^((a-b)/(a+b)) / G^2, G = (a A/(b B))^(1/(a+b)) (Hoffmann et al. 2022, Eq. 4).
    truth["Optimal D/N, 1.8e20 FLOPs"] = 3e19 ** ((a - b) / (a + b)) / (a * 400 / (b * 410)) ** (2 / (a + b))
    for question, value in truth.items():
        figure = answers[question]
        assert figure.low is not None
        assert figure.high is not None
        # Intervals of 90 % miss one figure in ten: their ends are let move by their own length.
        reach = figure.high - figure.low
        assert figure.low - reach < value < figure.high + reach
        assert figure.value == pytest.approx(value, rel=0.15)


def test_losses_agree_within_less_than_other_figures() -> None:
    near = [replace(figure(2.50, 2.49, 2.51), same=1.02, wide=1.2), replace(figure(2.70, 2.69, 2.71), same=1.02, wide=1.2)]
    assert verdict(near) == "depends on the law"
    assert verdict([figure(2.50, 2.49, 2.51), figure(2.70, 2.69, 2.71)]) == "every law"
    assert verdict([replace(figure(2.5, 2.2, 2.9), same=1.02, wide=1.2)]) == "unknown"


def test_the_first_screen_of_dense_runs_has_30_lines_at_most(dense: Comparison) -> None:
    document = compare_document(dense)
    lines = terminal(document, 80).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert document.tables()[0].columns == ("Question", "Dense")


def test_a_router_without_a_name_has_its_answers_in_the_table() -> None:
    n, e, d = (axis.ravel() for axis in np.meshgrid([5e7, 2e8, 8e8], [1.0, 8, 64], [2e9, 1e10, 5e10]))
    loss = 1.6 + 200 * n**-0.3 * e**-0.08 + 470 * d**-0.3
    loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    found = compare(
        Runs.from_columns({"N": n, "E": e, "D": d, "loss": loss}), Options(laws=("tokens-experts", "floor"), draws=60, other_draws=60)
    )
    table = compare_document(found).tables()[0]
    assert table.columns == ("Question", "all runs")
    assert table.rows[0][0] == "Experts help"
    # The best E of the largest run's compute and parameters, of which every second block's experts are, by exact enumeration of the truth.
    flops, most = 6 * 8e8 * 5e10, 8e8 * (9 + 4 * 64) / 13
    experts, active = np.arange(1.0, 4097), np.geomspace(1e6, 8e9, 3000)[:, None]
    losses = 1.6 + 200 * active**-0.3 * experts**-0.08 + 470 * (flops / 6 / active) ** -0.3
    losses = np.where(active * (9 + 4 * experts) / 13 <= most, losses, np.inf)
    truth = experts[np.argmin(losses.min(axis=0))]
    (best,) = [one for one in found.agreements if one.question.startswith("Best E")]
    assert best.question == "Best E, 2.4e20 FLOPs, 16B parameters"
    (answer,) = best.best
    assert answer.law == "tokens-experts"
    low, high = answer.figure.low, answer.figure.high
    assert low is not None
    assert high is not None
    assert low <= truth <= high
    # In steps of a square root of two, the flat optimum's figure lies within two of them.
    assert 0.5 <= answer.figure.value / truth <= 2


def test_without_draws_nothing_is_known(small_runs: Runs) -> None:
    found = compare(small_runs, Options(laws=("separable",), routers=("Hash", "S-Base"), draws=0))
    assert {one.verdict for one in found.agreements} == {"unknown"}


def test_runs_are_held_out_by_size_and_by_experts(small: Comparison) -> None:
    scores = small.held_out_by
    assert list(scores) == [N, E]  # all these runs read as many tokens
    assert {*scores[N]} == {*scores[E]} == {"separable", "bilinear", "bounded"}
    for own in scores.values():
        assert list(own.values()) == sorted(own.values())
        assert all(0 < value < 0.2 for value in own.values())
    assert any(table.title.startswith("Mean CRPS") for table in compare_document(small).tables())


def test_json_is_json_and_its_own_keys_are_documented(small: Comparison) -> None:
    record = json.loads(json.dumps(compare_json(small), allow_nan=False))
    section = DOCS.read_text().split("## compare.json")[1].split("\n## ")[0]
    own = {key: record[key] for key in ("verdict", "findings", "trusted", "agreements")}
    assert record["schema"] == "routelaw.compare/3"
    assert {path for path in paths(own) if f"| `{path}` |" not in section} == set()


def paths(value: object, prefix: str = "") -> set[str]:
    """Keys of nested JSON, lists as `[]`; below `figure` and `values` they are those of estimates and parameters."""
    if isinstance(value, list):
        return {path for item in value for path in paths(item, f"{prefix}[]")} | ({prefix} if prefix.endswith(("s", "ed")) else set())
    if not isinstance(value, dict):
        return {prefix.removesuffix("[]")}
    if prefix.endswith((".figure", ".values")):
        return {prefix}
    return {path for key, item in value.items() for path in paths(item, f"{prefix}.{key}" if prefix else key)}


def test_first_screen_of_the_small_runs_has_30_lines_at_most(small: Comparison) -> None:
    lines = terminal(compare_document(small), 80).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80


def test_simulated_runs_are_called_so(simulated_runs: Runs) -> None:
    found = compare(simulated_runs, Options(laws=("separable",), routers=("Hash",), draws=0))
    assert compare_document(found).verdict.startswith("Simulated runs. Of ")


@pytest.fixture(scope="module")
@unchecked()
def released(released_runs: Runs) -> Comparison:
    """The release, with draws that reach the ends of 90 % from six clusters: 46 and a margin; 95 % asks for 198."""
    return compare(released_runs, Options(draws=100, other_draws=100, level=0.9))


def test_on_the_release_the_laws_to_go_by_have_a_floor_and_not_the_papers_form(released: Comparison) -> None:
    assert released.trusted[0] == released.analysis.quoted == "bounded-floor"
    assert all("floor" in law for law in released.trusted)


def test_on_the_release_the_shrinking_gain_of_s_base_is_the_laws_form(released: Comparison) -> None:
    found = {one.router: one for one in released.agreements if one.question == "Gain falls with N"}
    by_law = {answer.law: answer for one in (found["S-Base"],) for answer in (*one.best, *one.others)}
    assert found["S-Base"].verdict == "unknown"
    assert by_law["bounded"].says == "yes"
    # FACTS section 7: 0.0011 [-0.0018, 0.0032] with saturation and a floor, from another bootstrap.
    assert by_law["bounded-floor-interaction"].figure.value == pytest.approx(0.0011, abs=5e-5)
    assert by_law["bounded-floor-interaction"].says == "unknown"
    assert "bounded-floor" in found["S-Base"].abstain


def test_on_the_release_n_cutoff_is_beyond_the_data_where_laws_predict(released: Comparison) -> None:
    found = next(one for one in released.agreements if (one.question, one.router) == ("N_cutoff", "S-Base"))
    assert found.answer == "beyond 1.3T"
    assert {answer.law: answer.figure.value for answer in found.others}["bounded"] == pytest.approx(6.84e11, rel=1e-3)


def test_on_the_release_the_first_screen_has_30_lines_at_most(released: Comparison) -> None:
    lines = terminal(compare_document(released), 80).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
