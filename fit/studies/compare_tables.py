"""The tables and findings of `compare`, from candidates, rankings, answers and agreements."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fit.analysis import short_count
from fit.assess.held_out import RollOutStep, Score, pooled
from fit.laws import DENSE, DENSE_FLOOR
from fit.load.schema import E
from fit.show.display import count, estimate, listing, many, percent
from fit.show.document import Table
from fit.studies.answers import ALL, NO, OPEN, SHRINKS, UNDECIDED, YES, Agreement, Answer, Question
from fit.studies.candidates import Candidate, Ranking
from fit.studies.sensitivity import Variant

SURVIVES = {"every": "under every law", "best": "only under the laws that predict best", "none": "no: the law decides"}


def score_table(candidates: Sequence[Candidate], ranking: Ranking | None, router: str) -> Table:
    """The scores of one router's laws, best first; those that cannot be ranked last."""
    mine = {candidate.law: candidate for candidate in candidates if candidate.router == router}
    order = [*(ranking.laws if ranking else ()), *(law for law in mine if not ranking or law not in ranking.laws)]
    least = min((c.aicc for c in mine.values() if c.aicc is not None), default=None)
    columns = ("Law", "Parameters", "Fit", "Left out", "AICc", "Held out", "Covered")
    rows = tuple(_score_row(mine[law], least, ranking) for law in order)
    runs = next(iter(mine.values())).result.fit.num_runs
    return Table(f"{router}: {many(runs, 'run')}", columns, rows, _score_note(ranking))


def held_out_table(candidates: Sequence[Candidate], router: str) -> Table | None:
    """The error at each held-out size of one router's laws; None where no size could be held out."""
    mine = [candidate for candidate in candidates if candidate.router == router]
    sizes = sorted({step.size for candidate in mine for step in candidate.roll_out})
    if not sizes:
        return None
    steps = {candidate.law: {step.size: step for step in candidate.roll_out} for candidate in mine}
    rows = tuple((law, *(_step(by_size.get(size)) for size in sizes)) for law, by_size in steps.items())
    return Table(f"{router}, size by size", ("Law", *(f"Held out {short_count(size)}" for size in sizes)), rows, on_terminal=False)


def _score_row(candidate: Candidate, least: float | None, ranking: Ranking | None) -> tuple[str, ...]:
    equal = ranking is not None and candidate.law in ranking.equal
    difference = "" if candidate.aicc is None or least is None else f"{candidate.aicc - least:+.1f}"
    covered = "" if candidate.covered is None else "{} of {}".format(*candidate.covered)
    return (
        f"{candidate.law} *" if equal else candidate.law,
        str(candidate.result.law.num_parameters),
        _error(candidate.rmse),
        _error(candidate.left_out),
        difference,
        _error(candidate.held_out),
        covered,
    )


def _error(value: float | None) -> str:
    """A root mean square of ln loss as a percentage of the loss, which it is to first order."""
    return "" if value is None else f"{100 * value:.2f}%"


def _step(step: RollOutStep | None) -> str:
    """Error and mean error of one held-out size."""
    if step is None or (score := step.score) is None:
        return ""
    return f"{_error(score.rmse_log10 * float(np.log(10)))}, {score.mean_error:+.3f}"


SCORES = (
    "Root mean square errors as a percentage of the loss. Fit: on the runs fitted. Left out: each run predicted from all the others. Held "
    "out: each size predicted from all smaller ones, all sizes counting alike (size by size: the error, then the mean of predicted minus "
    "observed loss in nats per token). Covered: runs of held-out sizes inside their prediction intervals. AICc: difference from the "
    "least; it takes residuals for independent, which lack of fit makes them not."
)
"""How to read the score tables."""


def _score_note(ranking: Ranking | None) -> str:
    if ranking is None:
        return ""
    by = "held-out error" if ranking.by == "held_out" else "leave-one-out error, as too few sizes can be held out"
    return (
        f"Ranked by {by}. * predicts about as well as the best: its error is at most {ranking.factor:.2f} times the least, "
        "what two equally good laws would differ by in one case out of four."
    )


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Which conclusions survive a change of law: a row for each question and router."""
    rows = tuple(
        (a.question.text, a.router, _summary(a.best), _summary(a.others), SURVIVES[a.survives] if a.best else _unanswered(a))
        for a in agreements
    )
    return Table(
        "Which conclusions survive a change of law",
        ("Question", "Router", "Laws that predict best", "Other laws", "Survives"),
        rows,
        "Of each group of laws the answer, with the laws where they differ, or the range of their figures and of their intervals. A figure "
        "survives if the laws' intervals have a value in common or their figures lie within a factor of 1.25. Laws without the "
        "interaction c take for granted that the gain, EPC/N, is the same at every N: they do not answer whether it shrinks, nor where "
        "it ends.",
    )


def _unanswered(agreement: Agreement) -> str:
    return f"not answered by {listing(agreement.abstain)}" if agreement.abstain else "no law is ranked"


def _summary(answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    if answers[0].question.scale:
        return _range(answers)
    if len({answer.says for answer in answers}) == 1:
        return answers[0].says
    says: dict[str, list[str]] = {}
    for answer in answers:
        says.setdefault(answer.says, []).append(answer.law)
    return "; ".join(f"{word} ({', '.join(laws)})" for word, laws in says.items())


def _range(answers: Sequence[Answer]) -> str:
    figures = [answer.figure for answer in answers if answer.figure]
    write: Callable[[float], str] = count if figures[0].unit else _three
    values = [figure.value for figure in figures]
    ends = [end for figure in figures for end in (figure.low, figure.high) if end is not None]
    low, high = write(min(values)), write(max(values))
    text = low if low == high else f"{low} to {high}"
    return f"{text} [{write(min(ends))}, {write(max(ends))}]" if ends else text


def _three(value: float) -> str:
    return f"{value:.3g}"


def answer_tables(answers: Sequence[Answer], rankings: Mapping[str, Ranking]) -> tuple[Table, ...]:
    """Every answer of every law: a table for each question, a row for each law, a column for each router."""
    tables: list[Table] = []
    for question in dict.fromkeys(answer.question for answer in answers):
        mine = [answer for answer in answers if answer.question == question]
        routers = tuple(dict.fromkeys(answer.router for answer in mine))
        cells = {(answer.law, answer.router): _cell(answer, rankings) for answer in mine}
        laws = dict.fromkeys(answer.law for answer in mine)
        rows = tuple((law, *(cells.get((law, router), "not in the law") for router in routers)) for law in laws)
        columns = ("Law", *("Best router" if router == ALL else router for router in routers))
        tables.append(Table(question.text, columns, rows, _answer_note(question), on_terminal=False))
    return tuple(tables)


def _cell(answer: Answer, rankings: Mapping[str, Ranking]) -> str:
    equal = answer.router in rankings and answer.law in rankings[answer.router].equal
    text = estimate(answer.figure)
    if answer.favours:
        text = answer.favours if answer.share is None else f"{answer.favours} in {_draws(answer.share)} of draws; loss {text}"
    elif answer.says:
        text = f"{answer.says}: {text}"
    return f"{text} *" if equal else text


def _draws(share: float) -> str:
    """The share of draws, never rounded to a certainty that it is not."""
    return percent(round(share, 3)) if 0.0005 <= share < 0.9995 or share in (0, 1) else ("over 99.9%" if share > 0.5 else "under 0.1%")


def _answer_note(question: Question) -> str:
    notes = {
        "experts_help": "The least EPC/N over the sizes of the runs, at E = 64 or the largest below it. Yes: the interval is above 1 at "
        "every size.",
        "gain_shrinks": "The coefficient c of the interaction. Yes: its interval is above nought. Laws with a floor have it in an exponent "
        "of natural logarithms, the others in base 10: compare signs, not sizes.",
        "n_cutoff": "N_cutoff, above which more experts do not help; inf where c is not positive.",
    }
    ours = notes.get(question.key, "")
    if question.key.startswith("epc_ratio"):
        ours = "Size of the dense model of the same loss, as a multiple of N. † outside the sizes or expert counts of the runs."
    if question.key.startswith("best_router"):
        ours = "The router of least predicted loss; draws of different routers are independent of each other."
    return f"{ours} * predicts about as well as the best.".strip()


def findings(
    candidates: Sequence[Candidate], rankings: Mapping[str, Ranking], agreements: Sequence[Agreement], level: float
) -> tuple[str, ...]:
    """What was found, in sentences, most important first."""
    routers = len(rankings)
    split = _listed([a for a in agreements if a.best and a.survives == "none"], routers)
    apart = _listed([a for a in agreements if a.best and a.survives == "best"], routers)
    said = [sentence for a in _grouped([a for a in agreements if a.survives == "every"]) if (sentence := _surviving(a, routers))]
    parts: list[str] = []
    if split:
        parts.append(f"laws that predict about equally well disagree on {split}")
    if apart:
        parts.append(f"the laws that predict best contradict the others on {apart}")
    found: list[str] = []
    if parts:
        found.append(f"The answer depends on the law: {'; '.join(parts)}.")
    if said:
        found.append(f"Whatever the law: {'; '.join(said)}.")
    found += [_shrinking(a) for a in agreements if a.question == SHRINKS]
    found += [_ranked(ranking) for ranking in rankings.values()]
    found += _extrapolating(candidates, rankings, level)
    found += _dense_floor(candidates)
    return tuple(found)


def _grouped(agreements: Sequence[Agreement]) -> list[list[Agreement]]:
    """Agreements by question."""
    by_question: dict[Question, list[Agreement]] = {}
    for agreement in agreements:
        by_question.setdefault(agreement.question, []).append(agreement)
    return list(by_question.values())


def _listed(agreements: Sequence[Agreement], routers: int) -> str:
    """What the questions are about, and for which routers."""
    return listing(f"{mine[0].question.about}{_whose([a.router for a in mine], routers)}" for mine in _grouped(agreements))


def _whose(named: Sequence[str], routers: int) -> str:
    if named == [ALL]:
        return ""
    return " (every router)" if len(named) == routers > 1 else f" ({listing(named)})"


def _surviving(mine: Sequence[Agreement], routers: int) -> str:
    """What all laws say, where it can be said in words; several routers may have said different things."""
    question = mine[0].question
    if question.yes:
        words = {a.router: (*a.best, *a.others)[0].says for a in mine}
        yes = [router for router, word in words.items() if word == YES]
        rest = [f"{question.about}: {word} ({router})" for router, word in words.items() if word != YES]
        return "; ".join([*([question.yes + _whose(yes, routers)] if yes else []), *rest])
    if question.scale:
        return f"{question.about} is {listing(f'{_range((*a.best, *a.others))} ({a.router})' for a in mine)}"
    best = (*mine[0].best, *mine[0].others)[0].says
    return f"{question.about} is {best}" if best != UNDECIDED else f"{question.about} is undecided"


_VERDICTS = {YES: "c > 0", NO: "c < 0", OPEN: "c = 0 not excluded"}


def _shrinking(agreement: Agreement) -> str:
    """The headline with its figures: c under every law that has it."""
    all_of_them = (*agreement.best, *agreement.others)
    parts = [
        f"{_VERDICTS[word]} under {listing(f'{a.law} ({estimate(a.figure)})' for a in all_of_them if a.says == word)}"
        for word in dict.fromkeys(answer.says for answer in all_of_them)
    ]
    verb = "predicts" if len(agreement.abstain) == 1 else "predict"
    without = f"; without c at all, {listing(agreement.abstain)} {verb} as well" if agreement.abstain else ""
    return f"{agreement.router}, does the gain shrink with N: {'; '.join(parts)}{without}."


def _ranked(ranking: Ranking) -> str:
    what = "sizes held out" if ranking.by == "held_out" else "runs left out"
    equal = [law for law in ranking.equal if law != ranking.best]
    text = f"{ranking.router}: {ranking.best} predicts {what} best ({_error(ranking.scores[ranking.best])} of the loss)"
    text += f", and about as well do {listing(equal)}" if equal else ", and none does about as well"
    if "bounded" in ranking.laws and "bounded" not in ranking.equal:
        text += f"; the paper's law, bounded, errs {ranking.scores['bounded'] / ranking.scores[ranking.best]:.1f} times as much"
    return f"{text}."


def _dense_floor(candidates: Sequence[Candidate]) -> list[str]:
    """What a floor does for the dense runs, and whether they show one."""
    fits = {candidate.law: candidate.result for candidate in candidates}
    plain, floor = (fits.get(law.name) for law in (DENSE, DENSE_FLOOR))
    if plain is None or floor is None:
        return []
    misses = [_error(np.log(10) * result.fit.rmse_log10) for result in (plain, floor)]
    least = floor.coefficients["L_0"]
    text = f"The dense runs: a power law misses them by {misses[0]} of the loss, one with a floor by {misses[1]}"
    unsure = ": an interval that reaches 0, so no floor is shown" if least.low is not None and least.low <= 0 else ""
    return [f"{text}; the floor is {estimate(least)} nats per token{unsure}."]


def _extrapolating(candidates: Sequence[Candidate], rankings: Mapping[str, Ranking], level: float) -> list[str]:
    """How Eq. 1 did at the largest size held out, on its routed runs; the law that predicts best; and the one that covers best."""
    if not rankings or any(ranking.by != "held_out" for ranking in rankings.values()):
        return []
    common = [law for law in next(iter(rankings.values())).laws if all(law in ranking.scores for ranking in rankings.values())]
    scores: dict[str, Score] = {}
    for law in common:
        steps = [c.roll_out[-1].only(c.result.runs.numeric(E) > 1) for c in candidates if c.law == law and c.router in rankings]
        if (score := pooled(steps)) is not None:
            scores[law] = score
    if not scores:
        return []
    total = {law: sum(ranking.scores[law] for ranking in rankings.values()) for law in scores}
    covering = max(scores, key=lambda law: (scores[law].covered or 0, -total[law]))
    chosen = dict.fromkeys(law for law in ("bounded", min(total, key=lambda law: total[law]), covering) if law in scores)
    step = next(c for c in candidates if c.law in scores and c.router in rankings).roll_out[-1]
    parts: list[str] = []
    for law in chosen:
        score = scores[law]
        covered = "" if score.covered is None else f", and its {percent(level)} prediction intervals cover {score.covered}"
        parts.append(f"{law} has a mean error of {score.mean_error:+.3f} nats per token{covered}")
    runs = many(next(iter(scores.values())).runs, "routed run")
    start = f"Fitted to sizes up to {short_count(step.trained_up_to)} and put to the {runs} at {short_count(step.size)}"
    return [f"{start}: {'; '.join(parts)}."]


def along_training(router: str, steps: Sequence[Variant]) -> str:
    """How N_cutoff moved with training length, in a sentence; empty where there is none at both ends."""
    known = [variant for variant in steps if np.isfinite(variant.values.get("N_cutoff", np.inf))]
    if len(known) < 2:
        return ""
    first, last = known[0], known[-1]
    return f"{router}: {count(first.values['N_cutoff'])} at {first.choice}, {count(last.values['N_cutoff'])} {last.choice}"
