"""Ludziejewski et al.: constants of each E, optima, and the sign that flips outside the runs (LAWS sections 2 and 3)."""

import pytest

from fit.papers.ludziejewski2025 import PRINTED
from tests.fit.laws.test_published import PER_E
from tests.fit.papers.later_papers import Reproduced, reproduced


@pytest.fixture(scope="module")
def ludziejewski(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """The command's answer."""
    return reproduced("ludziejewski", tmp_path_factory.mktemp("ludziejewski"))


def test_the_constants_of_each_number_of_experts_come_back(ludziejewski: Reproduced) -> None:
    printed = [one for one in ludziejewski.record["figures"] if one["printed"] is not None]
    assert len(printed) == 24
    for one in printed:
        # Exponents have four decimals, two units of the last; coefficients move by 0.3 % with rounded exponents.
        tolerance = 2e-4 if one["name"] in ("mu", "nu") else 3e-3 * one["printed"]
        assert one["value"] == pytest.approx(one["printed"], abs=tolerance), f"{one}: {one['digits']:.1f} digits match"
    # The laws' own tests have the table from the same notes, copied apart.
    assert PRINTED == PER_E


def test_optima_are_those_of_the_notes_to_the_digits_given(ludziejewski: Reproduced) -> None:
    for e, n, ratio, loss in ((1, 5.71e9, 5.1, 2.3502), (8, 3.79e9, 11.6, 2.2945), (64, 2.56e9, 25.4, 2.2266)):
        # The first figures of this name are those at 1e21. Three digits, one decimal and four are given.
        assert ludziejewski.figure("N_a*", f"E = {e}")["value"] == pytest.approx(n, rel=2e-3)
        assert ludziejewski.figure("D/N_a", f"E = {e}")["value"] == pytest.approx(ratio, abs=0.06)
        assert ludziejewski.figure("loss", f"E = {e}")["value"] == pytest.approx(loss, abs=6e-5)


def test_the_trade_turns_round_outside_the_runs_which_is_an_artefact(ludziejewski: Reproduced) -> None:
    assert ludziejewski.verdicts == ["yes", "yes", "yes", "artefact"]
    far = [
        one["value"] for one in ludziejewski.record["figures"] if one["table"] == "Best models at 1.0e24 FLOPs" and one["name"] == "N_a*"
    ]
    assert far == sorted(far)
    assert len(far) == 3
    assert "beyond its runs: N 83 times" in ludziejewski.why(4)


def test_what_cannot_be_checked_is_named(ludziejewski: Reproduced) -> None:
    assert any("RMSE" in limit and "cannot be checked" in limit for limit in ludziejewski.record["limits"])
    assert "cannot" in ludziejewski.screen
