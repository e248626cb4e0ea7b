"""Losses are what their formulas say, and their parts belong together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import huber

from fit.solver.losses import LN10, Huber, Loss, Squared, SquaredLog, loss_named

LOSSES = (SquaredLog(), Squared(), Huber(1e-3), Huber(0.1))


@given(r=st.floats(-2, 2), delta=st.floats(1e-4, 1))
def test_huber_is_twice_scipys(r: float, delta: float) -> None:
    assert Huber(delta).rho(np.array([r]))[0] == pytest.approx(2 * float(huber(delta, r)), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@given(r=st.floats(-1, 1))
def test_psi_is_half_the_slope_of_rho(loss: Loss, r: float) -> None:
    h = 1e-6
    slope = (loss.rho(np.array([r + h])) - loss.rho(np.array([r - h])))[0] / (2 * h)
    # Central differences of step h over rho's curvature of at most 2: wrong by h at Huber's kink, by rounding elsewhere.
    assert slope / 2 == pytest.approx(float(loss.psi(np.array([r]))[0]), abs=2e-6)


def test_residuals_have_their_units() -> None:
    predicted, observed = np.log10(np.array([2.2])), np.log10(np.array([2.0]))
    assert SquaredLog().residual(predicted, observed)[0] == pytest.approx(np.log10(1.1))
    assert Squared().residual(predicted, observed)[0] == pytest.approx(0.2)
    assert Huber().residual(predicted, observed)[0] == pytest.approx(np.log10(1.1) * LN10)


def test_losses_are_found_by_name() -> None:
    assert loss_named("log") == SquaredLog()
    assert loss_named("squared") == Squared()
    assert loss_named("huber:0.01") == Huber(0.01)


@pytest.mark.parametrize("name", ["huber:-1", "huber:x", "huber:nan", "mae", "log:1"])
def test_what_is_no_loss_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(ValueError, match="huber"):
        loss_named(name)
