"""What experts are worth as models grow: by laws whose answer is known on paper."""

import numpy as np
import pytest

from fit.gains import PATHS, gain_ratio, paths_of, tokens_along
from fit.laws import BOUNDED_TOKENS, BOUNDED_TOKENS_INTERACTION, CATALOGUE, FLOOR, TOKENS, TOKENS_EXPERTS
from fit.runs.schema import D, N
from tests.fit.designs import TRUTH, design


def _ratio(name: str, path: str, **changed: float) -> float:
    law = CATALOGUE[name]
    theta, beta = (np.array(values, dtype=np.float64) for values in TRUTH[name])
    for k, value in changed.items():
        theta[[shape.name for shape in law.shapes].index(k)] = value
    return float(gain_ratio(law, design(law), path, 64.0)(theta, beta)[0])


@pytest.mark.parametrize("path", PATHS)
def test_a_law_whose_experts_divide_the_term_in_size_has_one_worth_at_every_size(path: str) -> None:
    # EPC/N = (Ê/Ê(1))^(g/a) whatever N and D are. 52 halvings of a bracket of a factor of 1.8.
    assert _ratio("tokens-experts", path) == pytest.approx(1, rel=1e-12)
    assert _ratio("bounded-tokens", path) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_an_interaction_makes_the_worth_fall_or_grow_by_its_sign(path: str) -> None:
    assert _ratio("bounded-tokens-interaction", path, c=0.004) < 0.9
    assert _ratio("bounded-tokens-interaction", path, c=-0.004) > 1.1


def test_tokens_follow_each_path_through_the_middle_of_the_runs() -> None:
    data = design(TOKENS_EXPERTS)
    n, d = (float(np.exp(np.log(data[name]).mean())) for name in (N, D))
    sizes = np.array([n / 10, n * 10])
    fixed, rising, falling = (tokens_along(path, sizes, data) for path in PATHS)
    np.testing.assert_allclose(fixed, [d, d])
    np.testing.assert_allclose(rising / sizes, [d / n, d / n])
    np.testing.assert_allclose(falling * sizes, [d * n, d * n])


def test_laws_without_tokens_or_experts_are_not_asked() -> None:
    assert paths_of(FLOOR) == paths_of(TOKENS) == ()
    assert paths_of(BOUNDED_TOKENS) == paths_of(BOUNDED_TOKENS_INTERACTION) == PATHS
