"""Designs are the best there are, keep every limit, come back from the papers' tables, and are no edge of the search."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from common.errors import InputError
from fit.analysis import Options, Result, analyse
from fit.design.answer import Answer, Design, answer, answers, cheapest, solve
from fit.design.memory import training_bytes
from fit.design.predictor import Predictor, of_published, of_result, published_predictors
from fit.design.question import Question
from fit.literature import published
from fit.runs import load_runs
from fit.runs.schema import D, E, G, N, P
from tests.checks import unchecked

ROUTED = ("joint", "granularity:E=64", "sparsity")
EVERY = (*ROUTED, "tokens:Besiroglu", "granularity:dense")


@cache
def law(name: str) -> Predictor:
    """A published law for designs."""
    found = of_published(published(name))
    assert isinstance(found, Predictor)
    return found


def best(question: Question, name: str) -> Design:
    """The design by a law that has one."""
    found = answer(question, law(name))
    assert isinstance(found, Answer), found
    assert found.best is not None, found.stopped
    return found.best


# Krajewski et al., Table 2: active parameters, FLOPs, G. The printed coefficients are rounded, which moves N_a by up to 2.5 % (LAWS 3).
@pytest.mark.parametrize(("active", "flops", "g"), [(1e8, 2.95e18, 8), (1e9, 1.93e20, 16), (7e9, 6.46e21, 32), (3e11, 5.69e24, 64)])
def test_krajewskis_table_2_comes_back_from_budgets_alone(active: float, flops: float, g: int) -> None:
    found = best(Question(flops=flops), "granularity:E=64")
    assert found.granularity == g
    # And the FLOPs are printed to three digits: 0.17 % of 2.95e18 is 0.1 % of N_a.
    assert abs(found.active / active - 1) < 0.026, found.active


# LAWS section 3, to the three digits that it gives; tokens per parameter to two.
@pytest.mark.parametrize(("e", "n", "ratio", "loss"), [(1, 5.71e9, 5.1, 2.3502), (8, 3.79e9, 11.6, 2.2945), (64, 2.56e9, 25.4, 2.2266)])
def test_ludziejewskis_optima(e: int, n: float, ratio: float, loss: float) -> None:
    found = best(Question(flops=1e21, experts=e), "joint")
    assert f"{found.active:.3g}" == f"{n:.3g}"
    # One decimal, of the rounded N: 0.2 % of N is 0.4 % of the ratio.
    assert abs(found.tokens / found.active - ratio) < 0.05 + 0.004 * ratio
    assert round(found.loss.value, 4) == loss


@pytest.mark.parametrize(("e", "n", "loss"), [(1, 6.39e8, 2.5885), (4, 1.84e9, 2.4368), (50, 1.71e10, 2.2708)])
def test_abnars_optima(e: int, n: float, loss: float) -> None:
    found = best(Question(flops=1e20, experts=e), "sparsity")
    assert f"{found.total:.3g}" == f"{n:.3g}"
    assert round(found.loss.value, 4) == loss


def _brute_sizes(name: str, e: Float[np.ndarray, "designs"], g: Float[np.ndarray, "designs"], depth: Float[np.ndarray, "designs"]) -> tuple[
    Float[np.ndarray, "designs"], Float[np.ndarray, "designs"], Float[np.ndarray, "designs"]
]:  # fmt: skip
    """Active and all parameters, and training FLOPs per token, of models of this depth and d_model = 64 x depth: LAWS sections 1 and 3."""
    d = 64 * depth
    if name == "joint":
        active = 2 * d * 50_257 + 13 * depth * d**2
        return active, 2 * d * 50_257 + (4 + 9 * e) * depth * d**2, 6 * active
    active = 12 * d**2 * depth
    if name == "granularity:E=64":
        return active, d**2 * (8 * 64 + 4) * depth, (12 * d**2 * 6 + d * 64 * g * 14) * depth
    return active, active * e, 6 * active


def _brute(name: str, question: Question) -> float:
    """The least loss of 10^6 designs that keep the limits: depths close together, all numbers of experts up to 1,000 or all G."""
    counts = (
        np.array([64.0])
        if name == "granularity:E=64"
        else np.arange(1.0, 1001)
        if question.experts is None
        else np.array([float(question.experts)])
    )
    counts = np.ones(1) if name in ("tokens:Besiroglu", "granularity:dense") else counts
    cuts = 2.0 ** np.arange(7) if name == "granularity:E=64" else np.ones(1)
    depths = np.geomspace(0.3, 400, 1_000_000 // (len(counts) * len(cuts)))
    e, g, depth = (values.ravel() for values in np.meshgrid(counts, cuts, depths, indexing="ij"))
    active, total, per_token = _brute_sizes(name, e, g, depth)
    tokens = np.full_like(e, np.inf) if question.flops is None else question.flops / per_token - (question.lifetime_tokens or 0) / 3
    tokens = np.minimum(tokens, question.tokens or np.inf)
    memory = training_bytes(law(name).architecture, active, e, 1.0, g, question.devices)
    allowed = (tokens > 0) & (memory <= (question.memory or np.inf)) & (2 * total <= (question.serve_memory or np.inf))
    allowed &= (per_token <= 3 * (question.serve_flops or np.inf)) & (e * g <= (question.max_experts or np.inf))
    assert allowed.any()
    e, g, active, total, tokens = (values[allowed] for values in (e, g, active, total, tokens))
    found = published(name)
    values = {N: active, P: total, D: tokens, E: e, G: g, "activation_ratio": 1 / e}
    return float(found.loss({column: values[column] for column in found.law.columns}).min())


MIXES = (
    Question(flops=1e21, memory=640e9, devices=8),
    Question(flops=3e19, serve_memory=24e9, max_experts=600),
    Question(flops=1e22, memory=1e13, serve_flops=3e9, lifetime_tokens=2e11),
    Question(flops=1e21, tokens=2e10, memory=2e11, max_experts=300),
    Question(flops=2e18, memory=1e12, tokens=5e10),
)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("question", MIXES, ids=lambda question: " ".join(question.texts()))
def test_no_design_of_a_million_is_better(name: str, question: Question) -> None:
    found = solve(question, law(name))
    assert found is not None
    least = _brute(name, question)
    assert found.loss <= least + 1e-6
    # And the grid comes close, so that what is found keeps the limits that the grid keeps: its steps are 0.7 % of a depth and up.
    assert found.loss >= least - 2e-3 or found.e > 1000


AMOUNTS = {
    "flops": (16.0, 26.0), "memory": (9.0, 14.0), "serve_memory": (8.0, 13.0), "serve_flops": (8.0, 12.0), "tokens": (8.0, 13.0),
    "max_experts": (1.9, 3.5), "lifetime_tokens": (7.0, 10.0),
}  # fmt: skip


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """FLOPs and any mix of further limits, over decades."""
    names = ["flops", *draw(st.lists(st.sampled_from(sorted({*AMOUNTS} - {"flops"})), unique=True))]
    values = {name: 10 ** draw(st.floats(*AMOUNTS[name])) for name in names}
    return Question(**{name: int(value) if name == "max_experts" else value for name, value in values.items()})  # pyright: ignore[reportArgumentType]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(question=questions(), name=st.sampled_from(ROUTED), factor=st.floats(1.0, 30.0))
def test_designs_keep_every_limit_and_more_of_a_limit_is_never_worse(question: Question, name: str, factor: float) -> None:
    found = answer(question, law(name))
    if isinstance(found, str):
        assert "lift" in found or "alone" in found
        return
    if found.best is not None:
        one = found.best
        spent = {"flops": one.training_flops + one.inference_flops, "memory": one.memory, "serve_memory": one.serve_memory,
                 "serve_flops": one.serve_flops, "tokens": one.tokens, "max_experts": one.experts * one.granularity}  # fmt: skip
        assert all(spent[limit] <= value * (1 + 1e-9) for limit, value in question.limits.items())
        assert found.band is not None
        assert found.band.experts[0] <= one.experts <= found.band.experts[1]
        assert found.band.active[0] <= one.active <= found.band.active[1]
    here = solve(question, law(name))
    assert here is not None
    for limit in question.limits:
        more = solve(question.scaled(limit, factor), law(name))
        assert more is not None
        assert more.loss <= here.loss + 1e-9
    if question.lifetime_tokens:
        fewer = solve(replace(question, lifetime_tokens=question.lifetime_tokens / factor), law(name))
        assert fewer is not None
        assert fewer.loss <= here.loss + 1e-9


@pytest.mark.parametrize("name", ["joint", "sparsity"])
def test_an_edge_of_the_search_is_said_in_words_and_never_shown(name: str) -> None:
    found = answer(Question(flops=1e21), law(name))
    assert isinstance(found, Answer)
    assert found.best is None
    assert found.stopped == "no interior optimum in E by FLOPs alone; give --memory or --serve-memory"
    found = answer(Question(tokens=1e11, max_experts=64), law(name))
    assert isinstance(found, Answer)
    assert found.best is None
    assert "no interior optimum in N" in found.stopped


@pytest.mark.parametrize("name", EVERY)
def test_the_cheapest_design_for_a_loss_reaches_it_and_no_cheaper_one_does(name: str) -> None:
    question = Question(loss=2.5, memory=2e12)
    asked = cheapest(question, law(name))
    assert asked is not None
    assert asked.flops is not None
    reached, less = solve(asked, law(name)), solve(replace(asked, flops=asked.flops * 0.9999), law(name))
    assert reached is not None
    assert less is not None
    assert reached.loss <= 2.5 < less.loss


@pytest.mark.parametrize(
    ("question", "limit"),
    [(Question(flops=1e18, loss=2.2, memory=640e9), "--flops"), (Question(flops=1e30, loss=2.2, serve_flops=1e8), "--serve-flops"),
     (Question(loss=1.2), "--loss"), (Question(flops=1e21, serve_memory=1000.0), "--serve-memory"),
     (Question(flops=1e15, lifetime_tokens=1e14), "--flops")],
)  # fmt: skip
def test_contradictory_limits_say_which_to_lift_and_lifting_it_suffices(question: Question, limit: str) -> None:
    reason = answer(question, law("joint"))
    assert isinstance(reason, str)
    assert f"lift {limit} " in reason, reason
    factor = float(reason.split(f"lift {limit} ")[1].split(" times")[0])
    name = limit[2:].replace("-", "_")
    assert isinstance(answer(question.scaled(name, factor * (1 + 1e-9)), law("joint")), Answer)
    assert isinstance(answer(question.scaled(name, 1 + (factor - 1) * 0.98), law("joint")), str)


def test_a_law_that_cannot_be_asked_is_left_out_with_the_reason() -> None:
    predictors, left_out = published_predictors()
    assert ("leverage", "predicts how many FLOPs experts save, not a loss") in left_out
    assert any(name.startswith("bounded") and "reads no tokens" in reason for name, reason in left_out)
    found, left_out = answers(Question(flops=1e21, experts=8), predictors, left_out)
    assert [one.predictor.name for one in found] == ["sparsity", "joint"]
    assert ("granularity:E=64", "holds at E = 64 alone, and --experts is 8") in left_out
    with pytest.raises(InputError, match="no law has a design within these limits\njoint: its runs have k = 1, and --k is 2"):
        answers(Question(flops=1e21, k=2), [law("joint")])


def _simulated() -> Result:
    """A fit to 60 runs of four numbers of experts, five sizes and three lengths, with half a per cent of noise."""
    places = [(n, e, d) for n in np.geomspace(1e7, 1e9, 5) for e in (1.0, 4.0, 16.0, 64.0) for d in (2e9, 8e9, 3e10)]
    n, e, d = np.array(places).T
    noise = np.random.default_rng(0).normal(scale=0.005, size=len(n))
    loss = (1.6 + 300 * n**-0.32 * e**-0.08 + 900 * d**-0.33) * np.exp(noise)
    runs = load_runs(pl.DataFrame({"N": n, "E": e, "D": d, "loss": loss, "router": np.where(e > 1, "S-Base", "Dense")}))
    return analyse(runs, Options(laws=("tokens-experts",), draws=200)).results[0]


def test_a_fitted_law_has_intervals_from_its_draws() -> None:
    with unchecked():
        predictor = of_result(_simulated())
    assert isinstance(predictor, Predictor)
    question = Question(flops=1e20, memory=3e11)
    found = answer(question, predictor)
    assert isinstance(found, Answer)
    assert found.best is not None
    assert found.band is not None
    one = found.best
    active = one.active * (9 + 4) / 13
    truth = 1.6 + 300 * active**-0.32 * one.experts**-0.08 + 900 * one.tokens**-0.33
    low, high = one.loss.low, one.loss.high
    assert low is not None
    assert high is not None
    # The design is three times outside the runs in experts; the interval holds the truth, and the band is the interval's.
    assert low < truth < high < 1.02 * low
    assert found.band.threshold == high
    for price in found.prices.values():
        assert price.doubled.known
        assert price.doubled.sign == -1
    # Its parameters are those of every second block routed.
    assert math.isclose(one.total, (9 + 4 * one.experts) / 13 * one.active, rel_tol=1e-12)


def test_tokens_that_are_read_again_are_worth_what_muennighoff_says() -> None:
    once, again = Question(flops=1e21, memory=640e9, tokens=1e10), Question(flops=1e21, memory=640e9, tokens=1e10, repeat=True)
    one, more = best(once, "joint"), best(again, "joint")
    assert one.tokens == pytest.approx(1e10)
    assert more.tokens > 4e10
    assert more.loss.value < one.loss.value
    # By hand, Eq. 5 of Muennighoff et al. with R_D* = 15.387756 (appendix A), at the design.
    star, repeats = 15.387756, more.tokens / 1e10 - 1
    fresh = 1e10 * (1 + star * (1 - math.exp(-repeats / star)))
    expected = float(published("joint").loss({N: np.array([more.active]), D: np.array([fresh]), E: np.array([more.experts])})[0])
    assert more.loss.value == pytest.approx(expected, rel=1e-12)
    # With text enough nothing is repeated, and nothing changes.
    plenty = replace(again, tokens=1e13)
    assert best(plenty, "joint") == best(replace(plenty, repeat=False), "joint")


def test_a_law_off_its_runs_is_flagged() -> None:
    found = answer(Question(flops=1e21, memory=640e9), law("sparsity"))
    assert isinstance(found, Answer)
    assert found.flags[0].startswith("--memory: leads off the ray")
    ours = answer(Question(flops=1e21, memory=640e9), law("joint"))
    assert isinstance(ours, Answer)
    assert ours.best is not None
    assert ours.outside == {"E": ours.best.experts / 32}


def test_clarks_law_is_asked_at_the_tokens_of_its_runs() -> None:
    found = answer(Question(flops=1e21, memory=640e9), law("bounded:S-Base"))
    assert isinstance(found, Answer)
    assert found.best is not None
    assert found.best.tokens == 130e9
    assert "reads no tokens" in found.flags[0]
    assert isinstance(answer(Question(flops=1e21, tokens=1e10), law("bounded:S-Base")), str)


def test_prices_are_the_slope_of_the_best_loss() -> None:
    question = Question(flops=1e21, memory=640e9)
    found = answer(question, law("joint"))
    assert isinstance(found, Answer)
    assert found.best is not None
    for name, price in found.prices.items():
        moved = answer(question.scaled(name, 2.0), law("joint"))
        assert isinstance(moved, Answer)
        assert moved.best is not None
        assert math.isclose(price.doubled.value, moved.best.loss.value - found.best.loss.value, abs_tol=1e-12)
        # The best loss is convex along the logarithm of a limit, so that a doubling brings less than the slope promises.
        assert price.slope * math.log(2) < price.doubled.value < 0


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"flops": -1.0},
        {"flops": 1e20, "repeat": True},
        {"tokens": 1e10, "repeat": True},
        {"flops": 1e20, "experts": 2, "k": 4},
        {"flops": 1e20, "experts": 64, "max_experts": 8},
    ],
)
def test_questions_that_cannot_be_met_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"give|lift|above 0|--tokens 100B"):
        Question(**values)  # pyright: ignore[reportArgumentType]
