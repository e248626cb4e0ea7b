"""The run-time type checks of tests."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from fit.quantities import beyond
from tests.checks import CHECKED_CALLS


@pytest.mark.parametrize("turn", [1, 2])
def test_in_every_test_the_first_calls_of_a_function_are_checked(turn: int) -> None:
    with pytest.raises(TypeCheckError, match="beyond"):
        beyond(np.ones(1), turn)
    for _ in range(CHECKED_CALLS):
        assert beyond(np.ones(1), 1.0) == 1.0
    assert beyond(np.ones(1), turn) == turn
