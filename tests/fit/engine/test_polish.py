"""Steps of the polish where the quadratic model is no use."""

import numpy as np

from fit.engine.polish import bounded_steps


def test_a_model_that_is_flat_to_rounding_ends_no_fit() -> None:
    # As it came up in a draw of the sparsity law, whose second derivatives overflow far from its runs: LAPACK calls the matrix singular.
    large = np.array(
        [[6.2e143, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 4.2e141, 0, 0], [0, 0, 0, 1.3e143, -2.5e143], [0, 0, 0, -2.6e143, 5.0e143]]
    )
    singular = np.ones((5, 5))
    matrix, gradient = np.stack([large, singular, np.eye(5)])[None], np.full((3, 5), 0.1)
    steps = bounded_steps(matrix, gradient, np.zeros((1, 3, 5), dtype=bool), np.full((3, 5), -1.0), np.full((3, 5), 1.0), np.ones((3, 5)))
    assert np.isfinite(steps).all()
    # The sound one beside them is solved to the ridge that singular ones get, 1e-14 of the diagonal.
    np.testing.assert_allclose(steps[0, 2], -0.1, rtol=1e-12)
