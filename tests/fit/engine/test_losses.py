"""Losses are what their formulas say, and their parts belong together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import huber as scipys

from fit.engine.losses import LN10, Loss, huber, loss_named, squared, squared_log

LOSSES = (squared_log(), squared(), huber(1e-3), huber(0.1))


@settings(max_examples=40)
@given(r=st.floats(-2, 2), delta=st.floats(1e-4, 1))
def test_huber_is_twice_scipys(r: float, delta: float) -> None:
    assert huber(delta).rho(np.array([r]))[0] == pytest.approx(2 * float(scipys(delta, r)), rel=1e-12, abs=1e-15)


def test_the_objective_is_stated_as_the_textbook_writes_it() -> None:
    r = np.array([0.002, -0.3])
    assert huber(0.1).stated(float(huber(0.1).rho(r).mean())) == pytest.approx(float(scipys(0.1, r).mean()), rel=1e-12)
    assert squared().stated(3.0) == squared_log().stated(3.0) == 3.0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@settings(max_examples=40)
@given(r=st.floats(-1, 1))
def test_psi_is_half_the_slope_of_rho(loss: Loss, r: float) -> None:
    h = 1e-6
    slope = (loss.rho(np.array([r + h])) - loss.rho(np.array([r - h])))[0] / (2 * h)
    # Central differences of step h over rho's curvature of at most 2: wrong by h at Huber's kink, by rounding elsewhere.
    assert slope / 2 == pytest.approx(float(loss.psi(np.array([r]))[0]), abs=2e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@settings(max_examples=40)
@given(r=st.floats(-1, 1))
def test_the_exact_curvature_is_the_slope_of_psi_and_the_other_one_is_psi_over_r(loss: Loss, r: float) -> None:
    h = 1e-9
    if abs(abs(r) - loss.delta) < 1e-6 or abs(r) < 1e-6:
        return  # at the kink there is no slope, and at zero no quotient
    slope = (loss.psi(np.array([r + h])) - loss.psi(np.array([r - h])))[0] / (2 * h)
    # Rounding of r near 1 over h.
    assert loss.curvature(np.array([r]), exact=True)[0] == pytest.approx(slope, abs=1e-6)
    assert loss.curvature(np.array([r]), exact=False)[0] == pytest.approx(loss.psi(np.array([r]))[0] / r, rel=1e-12)


def test_residuals_have_their_units() -> None:
    predicted, observed = np.log10(np.array([2.2])), np.log10(np.array([2.0]))
    assert squared_log().residual(predicted, observed)[0] == pytest.approx(np.log10(1.1))
    assert squared().residual(predicted, observed)[0] == pytest.approx(0.2)
    assert huber().residual(predicted, observed)[0] == pytest.approx(np.log10(1.1) * LN10)


def test_losses_are_found_by_name_and_by_their_own_label() -> None:
    assert loss_named("log") == squared_log()
    assert loss_named("squared") == squared()
    assert loss_named("huber:0.01") == huber(0.01)
    assert loss_named("huber") == huber(1e-3)
    assert [loss_named(loss.label) for loss in LOSSES] == list(LOSSES)


def test_a_huge_residual_costs_what_its_formula_says_and_overflows_nothing() -> None:
    assert huber(1e-3).rho(np.array([1e200]))[0] == pytest.approx(2e197)


def test_hubers_loss_of_another_scale_which_has_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="one of ln loss, not of nats"):
        Loss("nats", 0.1)


@pytest.mark.parametrize("name", ["huber:-1", "huber:x", "huber:nan", "mae", "log:1"])
def test_what_is_no_loss_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(ValueError, match="huber"):
        loss_named(name)
