"""What dense runs, and runs of several numbers of tokens, are told: short first screens, true sentences, held-out sizes and tokens."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from jaxtyping import Float

from common.document import Document, Table
from common.document.render import terminal
from fit.analysis import Analysis, Options, analyse
from fit.derived import Point
from fit.estimate import Estimate, Status
from fit.report import cell, fit_document, fit_json
from fit.runs import Runs
from fit.runs.schema import C, D, N
from tests.checks import unchecked

Column = Float[np.ndarray, "runs"]
OPTIONS = Options(draws=100, level=0.8)
"""100 draws reach 80 %."""


def noisy(loss: Column, size: float = 0.002) -> Column:
    """These losses with noise of one seed."""
    return loss * np.exp(size * np.random.default_rng(0).standard_normal(len(loss)))


def tokens_law(n: Column, d: Column) -> Column:
    """Losses of Hoffmann's form."""
    return 1.7 + 400 * n**-0.34 + 410 * d**-0.28


def grid(sizes: Sequence[float], tokens: Sequence[float], noise: float = 0.002, **more: float) -> Runs:
    """Every size with every number of tokens."""
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens))
    return Runs.from_columns({"N": n, "D": d, "loss": noisy(tokens_law(n, d), noise), **{k: np.full(len(n), v) for k, v in more.items()}})


def ladder() -> Runs:
    """Twenty tokens a parameter in every run."""
    n = np.geomspace(1e7, 1e10, 7)
    return Runs.from_columns({"N": n, "D": 20 * n, "loss": noisy(tokens_law(n, 20 * n))})


def routed_tokens() -> Runs:
    """Three sizes, experts and numbers of tokens."""
    n, e, d = (axis.ravel() for axis in np.meshgrid([5e7, 2e8, 8e8], [1.0, 8, 64], [2e9, 1e10, 5e10]))
    loss = noisy(1.6 + 200 * n**-0.3 * e**-0.08 + 470 * d**-0.3)
    return Runs.from_columns({"N": n, "E": e, "D": d, "loss": loss})


def scattered() -> Runs:
    """Every run of its own size and tokens, as in Hoffmann's first approach."""
    generator = np.random.default_rng(1)
    n = 10 ** generator.uniform(7.5, 10, 60)
    d = 10 ** generator.uniform(18, 22, 60) / 6 / n
    return Runs.from_columns({"N": n, "D": d, "loss": noisy(tokens_law(n, d), 0.01)})


def routed(experts: Sequence[float]) -> Runs:
    """A grid without tokens; of one number of experts, one architecture."""
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e7, 2e9, 6), experts))
    return Runs.from_columns({"N": n, "E": e, "loss": noisy(1.6 + 60 * n**-0.24 * e**-0.05)})


def by_compute() -> Runs:
    """Training compute alone."""
    c = np.geomspace(1e18, 1e22, 12)
    return Runs.from_columns({"C": c, "loss": noisy(1.7 + 300 * c**-0.13)})


LAYOUTS: dict[str, Callable[[], Runs]] = {
    "grid": lambda: grid([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 3e9, 1e10, 3e10]),
    "few sizes": lambda: grid([1e7, 1e8, 1e9], [1e9, 3e9, 1e10, 3e10, 1e11, 3e11]),
    "nine runs": lambda: grid([1e7, 1e8, 1e9], [1e9, 1e10, 1e11]),
    "no noise": lambda: grid([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 3e9, 1e10, 3e10], 0.0),
    "no floor": lambda: Runs.from_columns(
        {"N": (n := np.repeat([1e8, 1e9, 1e10], 3)), "D": (d := np.tile([1e9, 3e9, 1e10], 3)), "loss": 20 * n**-0.12 + 20 * d**-0.1}
    ),
    "ladder": ladder, "routed tokens": routed_tokens, "scattered": scattered, "by compute": by_compute,
    "one E": lambda: routed([64.0]), "no dense run": lambda: routed([4.0, 16.0, 64.0]), "routed": lambda: routed([1.0, 4.0, 16.0, 64.0]),
}  # fmt: skip


@cache
@unchecked()
def analysed(name: str) -> Analysis:
    """The default analysis of a layout."""
    return analyse(LAYOUTS[name](), OPTIONS)


def document(name: str) -> Document:
    """Its document."""
    return fit_document(analysed(name))


def finding(name: str, start: str) -> str:
    """The finding that starts so."""
    return next(text for text in document(name).findings if text.startswith(start))


def rows(name: str, start: str) -> Table:
    """The table whose title starts so."""
    return next(one for one in document(name).tables() if one.title.startswith(start))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_first_screen_is_at_most_30_lines_of_80_columns(name: str) -> None:
    lines = terminal(document(name), 80).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_number_has_more_than_six_significant_digits_beside_counts_of_runs(name: str) -> None:
    text = " ".join(document(name).findings)
    found = [number.replace(".", "").lstrip("0") for number in re.findall(r"(?<![\w.])\d+\.\d+", text)]
    assert all(len(number) <= 6 for number in found), found


def test_the_loss_asked_for_is_on_the_first_screen_with_its_interval() -> None:
    analysis = analyse(LAYOUTS["grid"](), replace(OPTIONS, laws=("tokens",), points=(Point(7e9, 1.0, 1e11),)))
    figure = analysis.results[0].derived["loss(7B/D=100B)"]
    text = next(text for text in fit_document(analysis).findings if text.startswith("Predicted loss at 7B/D=100B, by tokens: "))
    assert text.endswith(f" {cell(figure)}.")
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < tokens_law(np.array([7e9]), np.array([1e11]))[0] < figure.high


def test_held_out_sizes_of_dense_runs_are_not_pairs_with_a_router() -> None:
    text = finding("grid", "tokens predicts held-out sizes best")
    assert "router" not in text
    assert text.endswith("mean over 2 sizes.")


def test_with_too_few_sizes_laws_are_ranked_by_held_out_tokens() -> None:
    analysis = analysed("few sizes")
    assert analysis.ranking is not None
    assert (analysis.ranking.by, analysis.quoted) == (D, "tokens")
    assert "numbers of tokens best (too few sizes to hold out)" in finding("few sizes", "tokens predicts")
    assert document("few sizes").verdict.endswith("fewer tokens, its prediction intervals hold 3 of 3 runs of the most tokens.")
    assert fit_json(analysis)["ranked_by"] == D
    assert analysed("by compute").held_out_by == C


def test_runs_are_held_out_by_size_and_by_tokens_and_the_table_says_which() -> None:
    table = rows("grid", "Held-out runs")
    by, law = table.columns.index("by"), table.columns.index("law")
    assert {row[by] for row in table.rows if row[law] == "tokens"} == {"size", "tokens"}
    record = json.loads(json.dumps(fit_json(analysed("grid"))))
    held = {fit["law"]: {step["by"] for step in fit["held_out"]} for fit in record["fits"]}
    assert held["tokens"] == {N, D}
    # A law without tokens says nothing of them; sizes suffice to rank it.
    assert held["dense-floor"] == {N}


def test_many_sizes_are_held_out_a_dozen_at_a_time() -> None:
    steps = [step for step in analysed("scattered").result("Dense", "tokens").steps if step.following]
    sizes = sorted(step.size for step in steps if step.by == N)
    assert 5 <= len(sizes) <= 9
    held = np.concatenate([step.runs for step in steps if step.by == N])
    assert len(held) == len(np.unique(held))
    assert sizes[-1] == LAYOUTS["scattered"]().numeric(N).max()


def test_tokens_that_go_with_size_are_held_out_with_it() -> None:
    assert {step.by for result in analysed("ladder").results for step in result.steps} == {N}


def test_the_parameters_of_the_quoted_law_come_first_and_laws_without_tokens_are_left_to_the_tables() -> None:
    found = [text for text in document("grid").findings if text.startswith("Dense runs, ")]
    assert len(found) == 1
    assert found[0].startswith("Dense runs, L = L_0 + A N^-a + B D^-b: L_0 = 1.")
    assert any(text.startswith("All runs, L = L_0 + A N^-a E^-g + B D^-b: ") for text in document("routed tokens").findings)
    quoted = analysed("ladder").result("Dense", analysed("ladder").quoted).law
    assert finding("ladder", "Dense runs, ").startswith(f"Dense runs, {quoted.formula}")


@pytest.mark.parametrize("name", ["grid", "ladder", "few sizes", "nine runs", "one E"])
def test_laws_are_listed_best_first(name: str) -> None:
    analysis = analysed(name)
    laws = [row[0] for row in rows(name, "Laws, best first").rows]
    assert laws[0] == analysis.quoted
    order = analysis.ranking.scores if analysis.ranking else analysis.residual_errors
    assert laws == sorted(laws, key=lambda law: order[law])


def test_parameters_that_are_not_identified_have_no_digits() -> None:
    losses = [2.54, 2.53, 2.59, 2.60, 2.53, 2.59, 2.60, 2.55, 2.50, 2.57, 2.56, 2.61, 2.58, 2.53, 2.64, 2.52, 2.60, 2.62, 2.56, 2.41]
    found = fit_document(analyse(Runs.from_columns({"N": np.tile([2e8, 1e9], 10), "loss": np.array(losses)}), Options(laws=("dense",))))
    assert found.findings == ("Dense runs, L = (N_c / N)^alpha_N: alpha_N = 0.004 [-0.008, 0.016], N_c = not identified.",)


def test_compute_optimal_figures_say_of_which_runs_and_large_ratios_are_whole() -> None:
    assert finding("routed tokens", "Compute-optimal").startswith("Compute-optimal (Dense runs): ")
    assert rows("grid", "Compute-optimal").rows[0][0] == "Dense"
    # G = (50/4000)^(1/0.6), and D/N = 1/G^2 is some 2 million.
    n, d = (axis.ravel() for axis in np.meshgrid([1e6, 1e7, 1e8, 1e9], [1e9, 1e10, 1e11, 1e12]))
    loss = noisy(2 + 50 * n**-0.3 + 4000 * d**-0.3)
    analysis = analyse(Runs.from_columns({"N": n, "D": d, "loss": loss}), replace(OPTIONS, laws=("tokens",)))
    table = next(one for one in fit_document(analysis).tables() if "D/N" in one.columns)
    ratios = [row[-1].rstrip("†") for row in table.rows]
    assert ratios
    assert all(re.fullmatch(r"[\d.]{1,4}M", ratio) for ratio in ratios), ratios


@pytest.mark.parametrize(("low", "expected"), [(1e10, "10.0B or above, or none"), (2e12, "no sign of an end below 1T")])
def test_an_end_that_the_interval_does_not_exclude_is_not_denied(low: float, expected: str) -> None:
    # Fault F18: "may or may not change with size", then "experts never stop helping".
    assert cell(Estimate(np.inf, low, np.inf, Status.OPEN, "parameters"), 1e9) == expected


def test_where_c_may_be_zero_no_cutoff_is_quoted() -> None:
    text = finding("routed", "By ")
    analysis = analysed("routed")
    law = re.search(r"By (\S+) c = ", text.replace("the paper's law (Eq. 1)", "bounded"))
    assert law is not None
    c = analysis.result("all", law[1]).coefficients["c"]
    assert ("N_cutoff" in text) == (c.sign > 0)


def test_losses_are_in_the_unit_of_the_runs() -> None:
    n, d = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 3e9, 1e10, 3e10]))
    runs = Runs.from_columns({"N": n, "D": d, "bpb": noisy(tokens_law(n, d) / 3)})
    analysis = analyse(runs, Options(laws=("tokens",), draws=100, level=0.8))
    assert "nats" not in terminal(fit_document(analysis, full=True), 120, full=True)
    assert "nats" not in json.dumps(fit_json(analysis)["fits"])
    assert set(analysis.results[0].predict(kind="new run", N=1e9, D=1e11)["unit"]) == {"bits per byte"}
