"""What laws of dense runs share with the others: predictions with intervals at points, and roll-out by size and by tokens."""

import numpy as np
import pytest

from common.errors import InputError
from fit.analysis import Options, analyse
from fit.engine.solve import fit_law
from fit.laws import CATALOGUE, TOKENS
from fit.runs import Runs
from fit.runs.schema import D, N
from fit.select import roll_out
from tests.fit.designs import made_up

SHORT = {N: "N", D: "D", "unique_tokens": "U", "training_flops": "C"}


@pytest.mark.parametrize("law", ["tokens", "data-constrained", "frontier"])
def test_a_new_run_is_less_certain_than_the_mean_curve_and_both_are_predicted_by_short_names(law: str) -> None:
    data, loss = made_up(CATALOGUE[law])
    runs = Runs.from_columns({**data, "loss_validation": loss, "router_type": np.full(len(loss), "Dense")})
    result = analyse(runs, Options(laws=(law,), draws=80)).result("Dense", law)
    at = {SHORT[name]: [float(column.max()) / 2, float(column.max()) * 3] for name, column in data.items()}
    mean, new = (result.predict(kind=kind, **at) for kind in ("mean", "new run"))
    points = {name: np.array(at[SHORT[name]]) for name in data}
    np.testing.assert_allclose(mean["value"], 10 ** result.fit.log10_loss(points), rtol=1e-12)
    assert mean["status"].to_list() == new["status"].to_list() == ["ok", "ok"]
    assert mean["distance"].to_list() == new["distance"].to_list() == [1.0, 3.0]
    assert ((new["high"] - new["low"]) > (mean["high"] - mean["low"])).all()
    with pytest.raises(InputError, match="predicts from"):
        result.predict(E=[2.0])


@pytest.mark.parametrize("column", [N, D])
def test_larger_sizes_and_longer_runs_are_predicted_by_the_fit_to_the_smaller_and_shorter(column: str) -> None:
    data, loss = made_up(TOKENS)
    steps = roll_out(fit_law(TOKENS, data, loss), data[column])
    values = np.unique(data[column])
    assert [step.trained_up_to for step in steps if step.following] == values[2:-1].tolist()
    for step in steps:
        seen = data[column] <= step.trained_up_to
        alone = fit_law(TOKENS, {name: values[seen] for name, values in data.items()}, loss[seen])
        ahead = {name: values[data[column] == step.size] for name, values in data.items()}
        np.testing.assert_allclose(step.predicted, 10 ** alone.log10_loss(ahead), rtol=1e-7)
    scores = [step.score for step in steps if step.following]
    # Each 95 % interval holds nearly all of the next size's runs, five or six of them.
    assert all(score is not None and score.covered is not None and score.covered >= score.runs - 2 for score in scores)
