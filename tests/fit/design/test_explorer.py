"""The explorer's formulas, recorded of Python's, are the same functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit.design.answer import Answer, answer
from fit.design.explorer import explorer, model
from fit.design.explorer_trace import JAVASCRIPT, Recording
from fit.design.predictor import Predictor, of_published
from fit.design.question import Question
from fit.laws import CATALOGUE
from fit.literature import published_all

SMALL = Path(__file__).parents[3] / "golden" / "small_tokens.csv"
PUBLISHED = [made for one in published_all() if isinstance(made := of_published(one), Predictor)]
FORMS = [one for one in PUBLISHED if one.name not in ("tokens:Hoffmann", "bounded:RL-R", "bounded:Hash")]
"""One of each form."""

FIRST = Question(flops=1e21, memory=640e9, devices=8)


def played(recording: Recording, result: Any, values: dict[str, float]) -> float:
    """What a recording gives by NumPy's functions with these values for its symbols."""
    found: list[Any] = []
    for name, arguments in recording.steps:
        given = [found[one] if isinstance(one, int) else one for one in arguments]
        with np.errstate(all="ignore"):
            found.append(getattr(np, name)(*given) if arguments else np.float64(values[name]))
    last = recording.argument(float(np.asarray(result).item()))
    return float(found[last]) if isinstance(last, int) else last


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_recorded_law_is_the_same_function_as_the_law(name: str) -> None:
    law, random = CATALOGUE[name], np.random.default_rng(0)
    recording = Recording()
    shapes, coefficients = (
        [f"{letter}[{k}]" for k in range(number)] for letter, number in (("t", len(law.shapes)), ("b", len(law.coefficients)))
    )
    columns = {one: recording.numbers([one]) for one in law.columns}
    recorded = law.log10_loss(recording.numbers(shapes), recording.numbers(coefficients), columns)
    for _ in range(5):
        # Wherever the law has a loss or none, with columns about those of runs: more or fewer tokens than are unique among them.
        data = {one: np.exp(random.uniform(0.0, 20.0, size=1)) for one in law.columns}
        theta, beta = np.array([random.uniform(0.05, 0.9) for _ in law.shapes]), random.uniform(0.1, 2.0, size=len(law.coefficients))
        values = {one: float(data[one][0]) for one in law.columns} | dict(zip((*shapes, *coefficients), [*theta, *beta], strict=True))
        expected = float(law.log10_loss(theta, beta, data)[0])
        # The same functions of the same numbers; the product of features and coefficients is summed in another order.
        np.testing.assert_allclose(played(recording, recorded, values), expected, rtol=1e-13, atol=1e-13)
    assert recording.javascript(recorded).startswith(("return ", "const v"))


def test_what_cannot_be_recorded_is_refused() -> None:
    recording = Recording()
    x = recording.numbers(["x", "y"])
    for compute in (np.sum, np.median, np.arctan, np.cumsum, np.argmax):
        with pytest.raises(TypeError, match="cannot be recorded"):
            compute(x)
    # What a number stands for is no number: arithmetic that escaped the recording is noticed where its result is used.
    with pytest.raises(TypeError, match="without being recorded"):
        np.multiply(recording.numbers(["z"]), float(x[0]) / 3)
    with pytest.raises(KeyError):
        _ = JAVASCRIPT["sum"]


def test_laws_of_one_form_share_their_formulas() -> None:
    by = {one.name: model(one) for one in PUBLISHED}
    assert by["bounded:Hash"] == by["bounded:S-Base"]
    assert len(set(by.values())) < len(by)


def test_the_page_is_the_same_each_time_and_a_files_name_is_no_markup() -> None:
    found = [one for law in PUBLISHED[:1] if isinstance(one := answer(Question(flops=1e21, experts=1), law), Answer)]
    page = explorer(FIRST, found, "</script><!--.csv")
    assert page == explorer(FIRST, found, "</script><!--.csv")
    assert page.count("</script") == page.count("<script") == 1
    assert "<!--" not in page
