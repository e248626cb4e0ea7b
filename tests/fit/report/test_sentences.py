"""Every branch of the sentences that a report is made of: which is written follows the facts alone."""

from collections.abc import Mapping
from typing import Any

import pytest

from fit.report.words import bullets, rendered
from fit.runs.schema import C, D, N
from fit.select import Ranking, Score

EMPTY = ("ranking", "asked", "worth", "gains", "optimum", "approaches")
FACTS: dict[str, Any] = {
    "law": "floor", "paper_law": "bounded", "point": "1B/E=64", "cells": 9, "rising": {}, "growing": {}, "held_out": "sizes", "by": N,
    "sure": False, "with_floor": [], "drawn": [], "parameters": [], "routers": ("A", "B"), "disagree": [],
}  # fmt: skip


def findings(tables: Mapping[str, list[dict[str, str]]], **facts: Any) -> tuple[str, ...]:
    """The findings of these tables and facts."""
    return bullets("findings.j2", t={**{name: [] for name in EMPTY}, **tables}, **{**FACTS, **facts})


def gains(law: str, *c: str) -> list[dict[str, str]]:
    """Rows of the table of gains, a router each."""
    return [{"law": law, "router": router, "c": value, "N_cutoff": "5B [4B, 6B]†"} for router, value in zip("AB", c, strict=False)]


RANKED = [
    {"law": "floor", "CRPS": "0.50%", "shown worse": "no"},
    {"law": "curved", "CRPS": "0.60%", "shown worse": "no"},
    {"law": "bounded", "CRPS": "2.00%", "shown worse": "yes"},
]


@pytest.mark.parametrize(
    ("rows", "facts", "expected"),
    [
        (RANKED, {}, "floor predicts held-out sizes best: CRPS 0.50% of the loss, mean over 9 pairs of router and size; "
            "not shown to be worse: curved; the paper's law (Eq. 1): 2.00%."),
        (RANKED[:1], {"routers": ("A",)}, "floor predicts held-out sizes: CRPS 0.50% of the loss, mean over 9 sizes."),
        (RANKED[:1], {"routers": ("A",), "by": D, "held_out": "numbers of tokens"},
            "floor predicts held-out numbers of tokens (too few sizes to hold out): CRPS 0.50% of the loss, "
            "mean over 9 numbers of tokens."),
        (RANKED[2:], {"law": "bounded"}, "bounded predicts held-out sizes: CRPS 2.00% of the loss, mean over 9 pairs of router and size."),
    ],
)  # fmt: skip
def test_the_ranking_names_the_best_law_those_like_it_and_the_papers(rows: Any, facts: dict[str, Any], expected: str) -> None:
    assert findings({"ranking": rows}, **facts) == (expected,)


def test_losses_asked_for_are_the_quoted_laws_and_the_papers_at_each_point_in_order() -> None:
    rows = [
        {"at": at, "law": law, "router": router, "mean curve": f"2.{k}"}
        for k, (at, law, router) in enumerate([("9B", "floor", "A"), ("9B", "floor", "B"), ("9B", "bounded", "A"), ("1B", "floor", "A")])
    ]
    assert findings({"asked": rows}) == (
        "Predicted loss at 9B, by floor: A 2.0, B 2.1.",
        "Predicted loss at 9B, by the paper's law (Eq. 1): A 2.2.",
        "Predicted loss at 1B, by floor: A 2.3.",
    )
    assert findings({"asked": rows[:1]}, routers=("A",)) == ("Predicted loss at 9B, by floor: 2.0.",)


def _worth(law: str, router: str, gap: str = "") -> dict[str, str]:
    return {"law": law, "router": router, "EPC": "3B [2B, 4B]†", "EPC/N": "3.0 [2.0, 4.0]†", "above the best": gap}


@pytest.mark.parametrize(
    ("rows", "sure", "expected"),
    [
        ([_worth("floor", "A")], False, "A model of 1B/E=64 is worth a dense model of 3B [2B, 4B]†: EPC/N 3.0 [2.0, 4.0]†."),
        ([_worth("floor", "A"), _worth("floor", "B", "0.02 [0.01, 0.03]")], True,
            "At 1B/E=64 A has the lowest loss, 0.02 [0.01, 0.03] below B, and is worth a dense model of 3B [2B, 4B]†: "
            "EPC/N 3.0 [2.0, 4.0]†."),
        ([_worth("floor", "A"), _worth("floor", "B")], False,
            "At 1B/E=64 A has the lowest loss and is worth a dense model of 3B [2B, 4B]†: EPC/N 3.0 [2.0, 4.0]†."),
        ([_worth("floor", "A"), _worth("floor", "B", "0.02 [-0.01, 0.03]")], False,
            "At 1B/E=64 A has the lowest loss (not shown: 0.02 [-0.01, 0.03] below B) and is worth a dense model of 3B [2B, 4B]†: "
            "EPC/N 3.0 [2.0, 4.0]†."),
        ([_worth("floor", "A"), _worth("bounded", "B"), _worth("bounded", "A")], False,
            "A model of 1B/E=64 is worth a dense model of 3B [2B, 4B]†: EPC/N 3.0 [2.0, 4.0]†; by the paper's law (Eq. 1) EPC/N "
            "3.0 [2.0, 4.0]†."),
    ],
)  # fmt: skip
def test_worth_names_the_best_router_and_whether_it_is_shown(rows: Any, sure: bool, expected: str) -> None:
    assert findings({"worth": rows}, sure=sure) == (expected,)


@pytest.mark.parametrize(
    ("rows", "facts", "expected"),
    [
        (gains("bounded", "0.01 [0.00, 0.02]", "0.02"), {},
            "By the paper's law (Eq. 1) c = 0.01, 0.02 (A, B); N_cutoff: 5B†, 5B†."),
        (gains("bounded", "0.01", "0.02"), {"drawn": ["bounded"], "rising": {"bounded": ["A", "B"]}},
            "By the paper's law (Eq. 1) c = 0.01, 0.02 (A, B): gains from experts shrink with size; N_cutoff: 5B†, 5B†."),
        (gains("bounded", "0.01", "0.02"), {"drawn": ["bounded"], "rising": {"bounded": ["B"]}},
            "By the paper's law (Eq. 1) c = 0.01, 0.02 (A, B): gains shrink with size for B; N_cutoff: 5B†."),
        (gains("bounded", "-0.01", "0.02"), {"drawn": ["bounded"], "rising": {"bounded": []}, "growing": {"bounded": ["A"]}},
            "By the paper's law (Eq. 1) c = -0.01, 0.02 (A, B): no gain is shown to shrink with size."),
        (gains("floor", "0.00", "0.00"), {"drawn": ["floor"], "rising": {"floor": []}, "growing": {"floor": []}},
            "By floor c = 0.00, 0.00 (A, B): intervals hold zero, so that gains may shrink with size or not."),
        ([*gains("bounded", "0.01"), *gains("capped", "0.00", "0.03")], {"with_floor": ["capped"]},
            "By the paper's law (Eq. 1) c = 0.01 (A); N_cutoff: 5B†. With a floor (capped) c = 0.00, 0.03."),
    ],
)  # fmt: skip
def test_gains_are_said_to_shrink_where_c_is_shown_to_be_positive(rows: Any, facts: dict[str, Any], expected: str) -> None:
    assert findings({"gains": rows}, **facts) == (expected,)


def test_parameters_are_listed_with_their_status_or_said_to_be_unknown() -> None:
    known = {"router": "Dense", "formula": "L = L_0", "items": {"L_0": "1.6", "a": "0.3"}, "status": "too few draws"}
    unknown = {"router": "A", "formula": "L = L_0", "items": {}, "status": ""}
    assert findings({}, parameters=[known, unknown]) == (
        "Dense runs, L = L_0: L_0 = 1.6, a = 0.3 (too few draws for intervals).",
        "A, L = L_0: no parameter is identified.",
    )


@pytest.mark.parametrize(
    ("approaches", "disagree", "end"),
    [
        ([], [], "."),
        ([{"figure": "N"}], [], "; IsoFLOP profiles agree."),
        ([{"figure": "N"}], ["N", "D"], "; IsoFLOP profiles disagree about N, D."),
    ],
)
def test_the_first_and_the_last_budget_are_quoted_and_whether_profiles_agree(approaches: Any, disagree: list[str], end: str) -> None:
    rows = [
        {"router": router, "budget": budget, "N": "1B [0.9B, 1.1B]", "D": "20B†", "D/N": "20"}
        for router in ("Dense", "A")
        for budget in ("1e20", "1e21", "1e22")
    ]
    (text,) = findings({"optimum": rows, "approaches": approaches}, disagree=disagree)
    assert text == (
        f"Compute-optimal (Dense runs): at 1e20 N = 1B and D = 20B† (20 tokens a parameter), at 1e22 N = 1B and D = 20B† (20){end}"
    )


SCORE = Score(4, 0.01, 0.01, 1.0, 0.0, 2, None, 3)


def verdict(by: str = N, missing: tuple[str, ...] = (), simulated: int = 0, score: Score | None = SCORE, **codes: str) -> str:
    """The verdict of two fits, the second of which has these warnings."""
    own = {code.replace("_", "-"): message for code, message in codes.items()}
    fits = [{"router": "A", "codes": {}, "score": score}, {"router": "B", "codes": own, "score": score}]
    return " ".join(rendered("verdict.j2", law="floor", fits=fits, missing=missing, simulated=simulated, by=by).split())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdict(missing=("C",)), "Not identified: the runs of C do not determine floor."),
        (verdict(not_identified="no end"), "Not identified: floor (B): no end."),
        (verdict(not_converged="no optimum"), "Not identified: floor (B): no optimum."),
        (verdict(no_degrees="no noise"), "Not identified: floor (B): no noise."),
        (verdict(held_out_failure="x"),
            "Extrapolates badly: the prediction intervals of floor, fitted to smaller sizes, hold 3 of 4 runs of the largest size (B)."),
        (verdict(C, held_out_failure="x"),
            "Extrapolates badly: the prediction intervals of floor, fitted to less compute, hold 3 of 4 runs of the most compute (B)."),
        (verdict(lack_of_fit="a bend"), "Well determined, but it does not fit: floor (B): a bend."),
        (verdict(D), "Well determined: floor is identified and at its optimum; fitted to fewer tokens, its prediction intervals hold "
            "6 of 8 runs of the most tokens."),
        (verdict(score=None), "Well determined: floor is identified and at its optimum; no size could be held out."),
        (verdict(simulated=1, lack_of_fit="a bend"), "Simulated runs. Well determined, but it does not fit: floor (B): a bend."),
    ],
)  # fmt: skip
def test_the_verdict_is_the_worst_of_what_is_known(found: str, expected: str) -> None:
    assert found == expected


def compared(**facts: Any) -> tuple[str, ...]:
    """The findings of a comparison."""
    plain = {"ranking": None, "shown": [], "without": (), "floorless": (), "routed": [], "held_out": "sizes", "by_axis": []}
    return bullets("compare.j2", **{**plain, **facts})


def test_a_comparison_says_who_predicts_best_or_that_all_count_alike() -> None:
    ranking = Ranking({"floor": 0.005, "bounded": 0.02}, {}, ("floor", "curved"), 9)
    assert compared(ranking=ranking, shown=["floor", "bounded"]) == (
        "Held-out sizes are missed by 0.50% of the loss under floor and 2.00% of the loss under bounded (CRPS). "
        "Not shown to be worse: curved.",
    )
    alone = Ranking({"floor": 0.005}, {}, ("floor",), 9)
    assert compared(ranking=alone, shown=["floor"])[0].endswith("Not shown to be worse: none.")
    assert compared() == ("Too few sizes can be held out to rank the laws: all count alike.",)
    kinds = [("size", "floor", 0.005), ("experts", "bounded", 0.0123)]
    assert compared(by_axis=kinds)[1] == "Best by what was held out (CRPS): size floor, 0.50%; experts bounded, 1.23%."


def test_a_comparison_names_laws_that_take_an_answer_for_granted_and_the_best_routers() -> None:
    first = {"question": "Best router 1B/E=64", "answer": "A", "verdict": "every law"}
    second = {"question": "Best router 5M/E=128", "answer": "", "verdict": "unknown"}
    assert compared(without=("floor",), floorless=("dense", "curved"), routed=[first, second])[1:] == (
        "As good as any, though they take the gain from experts to be the same at every size: floor.",
        "As good as any, though they end at no floor: dense and curved.",
        "Best router at 1B/E=64: A (every law); 5M/E=128: no answer (unknown).",
    )
