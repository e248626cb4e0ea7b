"""Marin's and SmallTalk's published losses: a floor predicts what its absence misses, and gains from many experts do not shrink."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from fit.analysis import Options
from fit.papers import marin
from golden import public_points
from tests.checks import unchecked
from tests.fit.laws.test_frontier import MARIN
from tests.fit.papers.later_papers import reproduced


def test_a_floor_predicts_the_run_333_times_larger_and_its_absence_misses(tmp_path: Path) -> None:
    # The notes' figures are for squared errors of the loss.
    with unchecked():
        found = reproduced("marin", tmp_path, "--loss", "squared")
    assert found.verdicts == ["yes", "no"]
    with_floor, without = (found.figure("at 1.0e23 FLOPs", form) for form in ("with a floor", "without a floor"))
    assert with_floor["printed"] == without["printed"] == 2.234
    assert round(with_floor["value"], 3) == 2.225
    assert round(without["value"], 3) == 2.082
    assert with_floor["low"] < 2.234 < with_floor["high"]
    assert without["high"] < 2.234
    # The notes' [2.172, 2.274] are plain quantiles of draws; for three degrees of freedom they must be further out.
    assert with_floor["low"] < 2.172
    assert with_floor["high"] > 2.274
    assert all(one["low"] is not None for one in found.record["figures"])


def test_too_few_draws_for_a_level_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marin, "LEAST_DRAWS", 20)
    with unchecked(), pytest.raises(InputError, match="too few draws for an interval of this level: --draws"):
        marin.reproduce(public_points(), Options(draws=20, level=0.99999))


def test_the_points_are_those_that_the_frontiers_own_tests_fit() -> None:
    points = tomllib.loads(public_points().read_text())["marin"]
    np.testing.assert_array_equal([points["flops"], points["loss"]], MARIN)


def test_gains_from_experts_shrink_with_size_at_four_alone(tmp_path: Path) -> None:
    found = reproduced("smalltalk", tmp_path)
    assert [(one["text"][3:9].strip(), one["verdict"]) for one in found.record["statements"]] == [
        ("E = 4", "yes"),
        ("E = 16", "no"),
        ("E = 32", "no"),
    ]
    # From the notes: 0.114 -> 0.134 and 0.146 -> 0.193 nats.
    assert found.why(1) == "0.089 nats at 335M, 0.039 at 1.3B"
    assert found.why(2) == "0.114 nats at 335M, 0.134 at 1.3B"
    assert found.why(3) == "0.146 nats at 335M, 0.193 at 1.3B"
    assert found.figure("335M", "E = 8")["value"] == pytest.approx(np.log(11.25 / 10.20), rel=1e-12)


def test_data_without_a_licence_is_named_and_not_embedded() -> None:
    text = public_points().read_text()
    assert "steplaw" in text
    assert set(tomllib.loads(text)) == {"marin", "smalltalk"}
