"""What `docs/after_clark.md` says in words is what its figures show, and its numbers are those that were computed."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.after_clark.__main__ import TEMPLATE
from benchmarks.after_clark.later import SIZES, Later, later_laws
from fit.gains import PATHS
from fit.literature import published
from fit.quantities import effective_parameter_count
from fit.runs.schema import D

DOCS = Path(__file__).parents[1] / "docs"
RECORD: dict[str, Any] = json.loads((DOCS / "after_clark.json").read_text(encoding="utf-8"))
MIDDLE = (SIZES >= 1e8) & (SIZES <= 1e10)


@pytest.mark.parametrize("law", later_laws(), ids=lambda law: f"{law.name}, {law.experts}")
def test_what_experts_are_worth_by_later_laws(law: Later) -> None:
    growing, fixed = law.along(growing=True), law.along(growing=False)
    assert (np.diff(growing[MIDDLE]) > 0).all()
    assert growing[0] > 1
    # At fixed tokens Ludziejewski et al.'s worth changes by less than a fifth; the two others' rise.
    inside = fixed[(SIZES >= 1e8) & (SIZES <= 3e9)]
    if law.name.startswith("Ludziejewski"):
        assert np.ptp(inside) < 0.2 * inside.min()
    else:
        assert inside[-1] > inside[0]


def test_the_worth_of_the_joint_law_is_its_effective_parameter_count() -> None:
    law = next(one for one in later_laws() if one.experts == "E = 32")
    joint = published("joint")
    n, e = np.array([1e9]), np.array([32.0])
    other = effective_parameter_count(joint.law, joint.theta, joint.beta, n, e, {D: np.array([2e10])})
    # Bisected to rounding there, to 1e-12 of the logarithm here.
    assert law.worth(1e9, 2e10) == pytest.approx(float(other[0] / n[0]), rel=1e-9)


def test_the_page_is_its_template_with_the_numbers_of_its_record() -> None:
    page, template = ((DOCS / "after_clark.md").read_text(encoding="utf-8"), TEMPLATE.read_text(encoding="utf-8"))
    before, after = template.split("{own_text}")
    numbers = RECORD["numbers"]
    assert page.startswith(before.format(**numbers))
    assert page.endswith(after.format(**numbers))


def test_what_the_page_says_of_the_released_runs_is_so() -> None:
    numbers = RECORD["numbers"]
    for name in ("c_floor_interval", "c_both_interval"):
        low, high = (float(text) for text in re.findall(r"-?\d+\.\d+", numbers[name]))
        assert low < 0 < high
    assert float(numbers["crps_floor"].rstrip("%")) < float(numbers["crps_paper"].rstrip("%"))
    worth = {law: np.array(row["worth"]) for law, row in RECORD["released"].items()}
    assert (np.diff(worth["bounded"]) < 0).all()
    assert all(np.ptp(row) < 0.15 * row.max() for law, row in worth.items() if law != "bounded")


def test_what_the_page_says_of_our_own_runs_is_so() -> None:
    own = RECORD["own"]
    assert {tuple(row) for row in own.values()} == {PATHS}
    best, second, *others = sorted(RECORD["ranked"], key=lambda law: RECORD["ranked"][law])
    assert (best, second) == ("bounded-tokens", "tokens-experts")
    for law in (best, second):
        assert all(high - low < 1e-9 for _, low, high in own[law].values())
    # Along one path one law says that the worth falls, another that it may be the same: no agreement.
    assert own["joint"]["fixed compute"][2] < 1 < own["bounded-tokens-interaction"]["fixed compute"][2]
    assert {"bounded-tokens-interaction", "joint", "saturating-tokens"} == {*others}
