"""The runs that one law is fitted to."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from fit.runs import Runs, canonical, dense, load_runs, routers, with_columns
from fit.runs.schema import A, C, E, G, P


@pytest.mark.parametrize(("router", "count"), [("S-Base", 61), ("Hash", 59), ("RL-R", 62)])
def test_the_canonical_runs_of_the_release_are_as_many_as_stated(release: Path, router: str, count: int) -> None:
    runs = canonical(load_runs(release), router)
    assert len(runs) == count
    assert len(dense(runs)) == 8
    assert set(runs["k"].tolist()) == set(runs["flop_increase"].tolist()) == {1}
    assert set(runs["routing_frequency"].tolist()) == {0.5}
    assert set(runs["router_type"].tolist()) == {"Dense", router}
    # Every run dropped on the way has a reason.
    for step in runs.log[3:]:
        assert sum(int(reason.split()[0]) for reason in step.reasons) == step.dropped
    assert [step.rule.split(",")[0] for step in runs.log[3:]] == [
        f"{router} and dense runs",
        "k == 1",
        "flop_increase == 1",
        "routing_frequency == 0.5",
    ]


def test_the_routers_of_the_release_come_in_its_order_without_dense(release: Path) -> None:
    runs = load_runs(release)
    first_seen = dict.fromkeys(runs["router_type"].tolist())
    assert routers(runs) == tuple(name for name in first_seen if name != "Dense")
    assert len(dense(runs)) == 13


def test_the_dense_runs_alone_are_a_canonical_set_too(release: Path) -> None:
    runs = canonical(load_runs(release), "Dense")
    assert len(runs) == 8
    assert set(runs["router_type"].tolist()) == {"Dense"}


def test_a_router_that_is_not_there_is_refused_with_those_that_are(release: Path) -> None:
    with pytest.raises(InputError, match=r"no runs of router 's-base' \(routers there: Dense, .*S-Base"):
        canonical(load_runs(release), "s-base")


def test_without_a_router_column_all_runs_are_one_router() -> None:
    runs = Runs.from_columns({"loss": [3.0, 2.5, 2.4], "N": [1e6, 1e6, 1e6], "E": [1, 8, 16], "k": [1, 1, 2]})
    assert routers(runs) == ("all",)
    assert canonical(runs, "all").loss.tolist() == [3, 2.5]
    assert dense(runs).loss.tolist() == [3]
    alone = Runs.from_columns({"loss": [3.0]})
    assert len(canonical(alone, "Dense")) == len(dense(alone)) == 1


def test_a_run_with_one_expert_is_dense_for_every_router() -> None:
    columns = {"loss": [3.0, 2.5, 2.4], "E": [1, 8, 8], "router": ["Hash", "Hash", "S-Base"]}
    assert canonical(Runs.from_columns(columns), "S-Base").loss.tolist() == [3, 2.4]
    assert routers(Runs.from_columns(columns)) == ("Hash", "S-Base")


def test_dense_runs_may_leave_open_what_only_routed_ones_have() -> None:
    columns = {
        "loss": [3.0, 2.9, 2.5, 2.4, 2.3],
        "E": [1, 1, 8, 8, 8],
        "k": [np.nan, 2, 1, 1, 1],
        "R": [np.nan, 0.5, 1, 1, 0.5],
        "router": ["dense", "Dense", "Hash", "Hash", "Hash"],
    }
    assert canonical(Runs.from_columns(columns), "Hash").loss.tolist() == [3, 2.5, 2.4]
    routed = canonical(Runs.from_columns({**columns, "k": [1, 1, np.nan, 1, 1]}), "Hash")
    assert routed.loss.tolist() == [3, 2.9, 2.4]
    assert ("1 run: k is empty",) in [step.reasons for step in routed.log]
    unknown = canonical(Runs.from_columns({**columns, "k": [1, 1, np.nan, np.nan, np.nan]}), "Hash")
    assert unknown.loss.tolist() == [3, 2.9, 2.5, 2.4]


def test_k_is_held_at_the_value_most_runs_have_and_dense_runs_may_have_another() -> None:
    # Fault F4: k was held at 1 even where all runs share another k.
    runs = Runs.from_columns({"loss": [3.0, 2.5, 2.4, 2.2], "E": [1, 8, 8, 16], "k": [1, 2, 4, 2]})
    held = canonical(runs, "all")
    assert held.loss.tolist() == [3, 2.5, 2.2]
    assert held.log[-1].rule == "k == 2, as in most routed runs"
    assert held.log[-1].reasons == ("1 run: k == 4",)
    # Of equally common values the smaller k, and the larger routing frequency.
    even = {"loss": [3.0, 2.5], "E": [8, 8]}
    assert canonical(Runs.from_columns({**even, "k": [2, 1]}), "all").loss.tolist() == [2.5]
    assert canonical(Runs.from_columns({**even, "R": [0.5, 0.25]}), "all").loss.tolist() == [3]


def test_granularity_and_k_are_held_unless_the_law_reads_them() -> None:
    columns = {"loss": [3.0, 2.6, 2.5, 2.4, 2.3], "E": [1, 8, 8, 8, 16], "k": [1, 1, 1, 2, 1], "G": [np.nan, 1, 1, 1, 4]}
    runs = Runs.from_columns(columns)
    assert canonical(runs, "all").loss.tolist() == [3, 2.6, 2.5]
    assert canonical(runs, "all", (G,)).loss.tolist() == [3, 2.6, 2.5, 2.3]
    assert canonical(runs, "all", (A,)).loss.tolist() == [3, 2.6, 2.5, 2.4]


def test_columns_that_follow_are_derived_and_those_that_do_not_are_left_out() -> None:
    runs = Runs.from_columns(
        {"loss": [3.0, 2.5], "N": [1e8, 2e8], "D": [1e9, 1e10], "E": [1, 8], "k": [2, 2], "d_ff": [64, 64], "d_expert": [64, 16]}
    )
    found = with_columns(runs, (A, C, G, P))
    assert found.columns[A].tolist() == [1, 0.25]  # a dense run uses all it has, whatever its row says of k
    assert found.columns[C].tolist() == [6e17, 1.2e19]
    assert found.columns[G].tolist() == [1, 4]
    assert P not in found.columns  # all parameters of a routed model do not follow from a token's
    dense = with_columns(runs.keep(runs.columns[E] == 1, "dense runs"), (P,))
    assert dense.columns[P].tolist() == [1e8]
    assert [step.rule for step in found.log[-3:]] == [
        "no column activation_ratio: A = k/E", "no column training_flops: C = 6 N D", "no column granularity: G = d_ff/d_expert",
    ]  # fmt: skip
    assert with_columns(found, (A, C, G)) is found
