"""Abnar et al.'s statements beside their law: verdicts and figures are those of an independent computation (LAWS section 4)."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from fit.literature import published
from fit.papers.abnar2025 import BUDGETS, SPARSITIES, optima
from tests.fit.papers.later_papers import Reproduced, reproduced


@pytest.fixture(scope="module")
def abnar(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """The command's answer."""
    return reproduced("abnar", tmp_path_factory.mktemp("abnar"))


def test_verdicts_and_figures_are_those_of_the_notes(abnar: Reproduced) -> None:
    assert abnar.verdicts == ["yes", "yes", "yes", "no", "half", "yes", "yes", "no", "yes", "artefact", "artefact"]
    assert [one["stated"] for one in abnar.record["statements"]] == [True] * 9 + [False] * 2
    expected = {
        4: "0.371 0.338 0.318 0.285 0.261",
        5: "what is left 0.46 to 0.68",
        7: "0.934 0.903 0.872 0.780 0.623",
        8: "0.877 0.822 0.769 0.611 0.355",
        9: "N* ~ C^0.57 dense, C^0.68 at S = 0.98",
        10: "1.40 nats dense, 0.94 as S nears 1",
    }
    for number, text in expected.items():
        assert text in abnar.why(number)
    # The notes have "about 5.9e9"; where S = 0 stops being best at equal N and D it is 5.84e9.
    assert "above N = 5.8B" in abnar.why(11)
    assert "Best S of each size" in abnar.markdown


def test_optima_are_those_of_the_notes_to_the_digits_given(abnar: Reproduced) -> None:
    for s, n, active, loss in (("0", 6.39e8, 6.39e8, 2.5885), ("0.75", 1.84e9, 4.60e8, 2.4368), ("0.98", 1.71e10, 3.41e8, 2.2708)):
        at = f"C = 1.0e20, S = {s}"
        # Three digits of sizes, four decimals of losses.
        assert abnar.figure("N*", at)["value"] == pytest.approx(n, rel=2e-3)
        assert abnar.figure("N_a*", at)["value"] == pytest.approx(active, rel=2e-3)
        assert abnar.figure("loss", at)["value"] == pytest.approx(loss, abs=6e-5)


def test_every_optimum_is_scipys_for_the_formula_as_printed() -> None:
    def loss(log_n: float, c: float, s: float) -> float:
        n = np.exp(log_n)
        d, active = c / (6 * (1 - s) * n), 1 - s
        return 16612.50 / n**0.5962 + 5455.67 / d**0.3954 + 0.4598 * active**0.1666 + 17.26 / (active**0.1603 * n**0.1595) + 0.94

    found = optima(published("sparsity"))
    for i, c in enumerate(BUDGETS.tolist()):
        for j, s in enumerate(SPARSITIES.tolist()):
            best: Any = minimize_scalar(loss, bounds=(np.log(1e7), np.log(1e12)), args=(c, s), method="bounded", options={"xatol": 1e-9})
            # Losses near an optimum are flat: a relative error of 1e-15 in them is one of some 1e-7 in N.
            assert found.n[i, j] == pytest.approx(np.exp(best.x), rel=1e-5)
            assert found.loss[i, j] == pytest.approx(best.fun, rel=1e-12)


def test_on_best_models_the_derivatives_are_dependent_which_is_why_they_do_not_tell_the_coefficients_apart() -> None:
    found, p = optima(published("sparsity")), published("sparsity").row.values
    active = 1 - SPARSITIES
    d = BUDGETS[:, None] / (6 * found.active)
    in_n = p["alpha"] * p["a"] * found.n ** -p["alpha"]
    in_both = p["gamma"] * p["d"] * active ** -p["delta"] * found.n ** -p["gamma"]
    # As exact as N is: to 1e-6 of it.
    np.testing.assert_allclose(in_n + in_both, p["beta"] * p["b"] * d ** -p["beta"], rtol=1e-5)
