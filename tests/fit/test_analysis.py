"""An analysis fits what was asked, to the runs it should, and says what it could not."""

import numpy as np
import pytest

from common.errors import InputError
from fit.analysis import ALL_LAWS, DENSE_ROUTER, PAPER_LAWS, POOLED, Options, Point, analyse, default_points, short_count
from fit.errors import NotIdentifiedError
from fit.load.runs import Runs, load_runs
from golden import simulated_curves, small_curves

QUICK = Options(draws=40)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return load_runs(simulated_curves())


def test_the_papers_laws_are_fitted_to_every_router_of_the_release(released_runs: Runs) -> None:
    analysis = analyse(released_runs, QUICK)
    counts = {(r.router, r.law.name): len(r.runs) for r in analysis.results}
    assert counts[DENSE_ROUTER, "dense"] == 8
    assert [counts[router, "bounded"] for router in ("S-Base", "Hash", "RL-R")] == [61, 59, 62]
    # Every k, R and widened dense run: 87, 69 and 54 routed ones and 13 dense.
    assert [counts[router, "utilisation"] for router in ("S-Base", "Hash", "RL-R", POOLED)] == [100, 82, 67, 223]
    assert len(counts) == 1 + 3 * (len(PAPER_LAWS) - 1) + 1
    assert analysis.skipped == ()


def test_every_estimate_lies_within_its_interval_and_is_finite(runs: Runs) -> None:
    for result in analyse(runs, Options(laws=ALL_LAWS, draws=200, routers=("S-Base",))).results:
        for name, estimate in {**result.coefficients, **result.derived}.items():
            assert np.isfinite(estimate.value) or name == "n_cutoff"
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high


def test_intervals_cover_the_simulations_truth(runs: Runs) -> None:
    result = analyse(runs, Options(laws=("bounded",), routers=("S-Base",), draws=400)).result("S-Base", "bounded")
    assert result is not None
    published = result.law.published_for("S-Base")
    assert published is not None
    for name, estimate in result.coefficients.items():
        # The embedded runs come from this row; one of six missed at 95 % would be no surprise, and with this seed none is.
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= published.values[name] <= estimate.high


def test_points_outside_the_runs_are_marked(runs: Runs) -> None:
    options = Options(laws=("bounded",), routers=("Hash",), draws=0, points=(Point(1e9, 64.0), Point(1e10, 64.0), Point(1e9, 1000.0)))
    result = analyse(runs, options).results[0]
    assert [result.derived[f"epc({label})"].extrapolated for label in ("1B/E=64", "10B/E=64", "1B/E=1000")] == [False, True, True]


def test_without_draws_there_are_no_intervals(runs: Runs) -> None:
    for result in analyse(runs, Options(laws=("bilinear",), draws=0)).results:
        assert result.draws is None
        assert all(e.low is None and e.high is None for e in (*result.coefficients.values(), *result.derived.values()))


def test_laws_that_the_runs_cannot_identify_are_named_and_the_others_fitted(runs: Runs) -> None:
    analysis = analyse(runs.where("num_experts == 1"), QUICK)
    assert [result.law.name for result in analysis.results] == ["dense"]
    one_size = analyse(runs.where("model_size_label == '370M'"), Options(laws=("dense", "per-size", "bilinear", "bounded"), draws=40))
    assert {result.law.name for result in one_size.results} == {"per-size"}
    reasons = {skipped.law: skipped.reason for skipped in one_size.skipped}
    assert "2 parameters and there is 1 run" in reasons["dense"]
    assert "one only of dense_parameter_count" in reasons["bilinear"]
    assert "one only of dense_parameter_count" in reasons["bounded"]
    one_e = analyse(runs.where("num_experts in (1, 8)"), Options(laws=("separable", "bounded"), draws=40, routers=("Hash",)))
    assert {result.law.name for result in one_e.results} == {"separable"}


def test_when_no_law_can_be_fitted_the_reasons_come_in_one_line(runs: Runs) -> None:
    with pytest.raises(NotIdentifiedError, match="no law can be fitted") as caught:
        analyse(runs.where("model_size_label == '370M' and num_experts == 1"), QUICK)
    assert "\n" not in str(caught.value)


def test_when_the_laws_asked_for_cannot_be_fitted_those_that_can_are_named(runs: Runs) -> None:
    two = runs.where("num_experts == 8 or num_experts == 64")
    with pytest.raises(NotIdentifiedError, match=r"They can identify: .*separable, bilinear") as caught:
        analyse(two, Options(laws=("bounded",), draws=40))
    assert "bounded-floor" not in str(caught.value).split("They can identify")[1]


def test_a_slope_per_size_needs_a_size_with_two_expert_counts(runs: Runs) -> None:
    with pytest.raises(NotIdentifiedError, match="per-size' needs a size met with more than one num_experts"):
        analyse(runs.where("num_experts == 64"), Options(laws=("per-size",), draws=40))


def test_what_is_not_there_is_refused_with_what_is(runs: Runs) -> None:
    with pytest.raises(InputError, match="S-Base, Hash, RL-R"):
        analyse(runs, Options(routers=("Switch",)))
    with pytest.raises(InputError, match="bounded-floor"):
        Options(laws=("bonded",))
    with pytest.raises(InputError, match="level"):
        Options(level=95.0)


def test_default_points_are_the_papers_example_and_the_ends_of_the_runs(runs: Runs) -> None:
    assert [point.label for point in default_points(runs)] == ["5M/E=128", "16.5M/E=64", "1.31B/E=64"]


def test_the_papers_example_is_left_out_where_all_runs_are_far_from_it() -> None:
    assert [point.label for point in default_points(load_runs(small_curves()))] == ["6.78k/E=64", "240k/E=64"]


def test_counts_are_written_as_people_write_them() -> None:
    written = {16527360.0: "16.5M", 1308819456.0: "1.31B", 999999999.0: "1B", 3.4e13: "34T", 12.0: "12", 5e6: "5M"}
    assert {n: short_count(n) for n in written} == written
