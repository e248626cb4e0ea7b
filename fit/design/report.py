"""Designs by several laws side by side: whether they agree, the tables, and the JSON."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from common.document import Document, Figure, Note, Section, Table
from common.document.numbers import count, interval, listing, many, plain
from fit.design.answer import NEAR, Answer, Design
from fit.design.question import SERVING_BYTES, Question, amount, flag
from fit.estimate import Estimate, figure_cells
from fit.report.record import cleaned

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

SCHEMA = "routelaw.design/1"

Ends = tuple[float, float]

_IDLE = 5e-5
"""A limit whose doubling brings less, in nats, does not bind."""


@dataclass(frozen=True)
class Agreement:
    """Whether the bands of the laws that leave E free, and of all routed ones N_a, have a part in common: that part, None without."""

    laws: tuple[str, ...]
    experts: Ends | None
    active: Ends | None


def agreement(answers: Sequence[Answer]) -> Agreement:
    """Of the routed laws that have a design; E and N_a that all their bands hold."""
    routed = [one for one in answers if one.band is not None and not one.predictor.dense]
    free = [one.band.experts for one in routed if one.band is not None and one.predictor.experts is None]
    return Agreement(
        tuple(one.predictor.name for one in routed), _common(free), _common([one.band.active for one in routed if one.band is not None])
    )


def _common(ends: Sequence[Ends]) -> Ends | None:
    low, high = max((one[0] for one in ends), default=0.0), min((one[1] for one in ends), default=-1.0)
    return (low, high) if low <= high else None


def _span(ends: Ends, text: Callable[[float], str] = count) -> str:
    low, high = map(text, ends)
    return low if low == high else f"{low} to {high}"


def _experts(one: Answer) -> str:
    if one.band is None:
        return "-"
    low, high = one.band.experts
    return f"{low:g} and up" if one.band.open_experts else _span((low, high), lambda e: f"{e:g}")


def verdict(answers: Sequence[Answer]) -> str:
    """In a sentence or two: whether the laws agree on E and N_a."""
    found, stopped = agreement(answers), [one for one in answers if one.stopped]
    free = [one for one in answers if one.band is not None and one.predictor.experts is None and not one.predictor.dense]
    if not found.laws:
        return _stopped(stopped) or "Only dense laws have a design."
    words: list[str] = []
    if len(free) > 1 and found.experts:
        words.append(f"{many(len(free), 'law')} agree on E of {_span(found.experts, lambda e: f'{e:g}')}")
    elif len(free) > 1:
        words.append("the laws disagree on E: " + listing(f"{_experts(one)} by {one.predictor.name}" for one in free))
    elif free:
        words.append(f"E of {_experts(free[0])} is as good as the best, by {free[0].predictor.name} alone")
    if len(found.laws) > 1:
        words.append(
            f"{'both' if len(found.laws) == 2 else f'all {len(found.laws)}'} on N_active of {_span(found.active)}"
            if found.active
            else "they disagree on N_active"
        )
    words = ["; ".join(words)[:1].upper() + "; ".join(words)[1:] + "."] if words else []
    if stopped:
        words.append(_stopped(stopped))
    return " ".join(words)


def _stopped(answers: Sequence[Answer]) -> str:
    """Why laws have no design, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for one in answers:
        reasons.setdefault(one.stopped, []).append(one.predictor.name)
    return " ".join(f"{listing(names)}: {reason}." for reason, names in reasons.items())


def _loss(one: Estimate) -> str:
    return plain(one.value, 4) if one.low is None or one.high is None else interval(one.value, one.low, one.high)


def _best_table(found: Sequence[tuple[Answer, Design]]) -> Table:
    rows = tuple(
        (
            one.predictor.name, count(best.active), count(best.total), f"{best.experts:g}", f"{best.k:g}", f"{best.granularity:g}",
            count(best.tokens), _loss(best.loss), _outside(one),
        )
        for one, best in found
    )  # fmt: skip
    heads = ("Law", "N active", "N", "E", "k", "G", "D", "Loss", "Outside")
    note = (
        "Losses are of different texts: compare designs, not losses." if sum(one.predictor.result is None for one, _ in found) > 1 else ""
    )
    return Table("The best design by each law, and how far outside its runs", heads, rows, note, first=True)


def _cost_table(found: Sequence[tuple[Answer, Design]]) -> Table:
    size = partial(amount, "memory")
    rows = tuple(
        (
            one.predictor.name, f"{best.training_flops:.3g}", size(best.memory), size(best.serve_memory), f"{best.serve_flops:.2g}",
            _experts(one), _span(one.band.active) if one.band else "-",
        )
        for one, best in found
    )  # fmt: skip
    heads = ("Law", "FLOPs", "Memory", "Served", "Per token", "E as good", "N active as good")
    within = f"within {100 * NEAR:g} %" if all(one.predictor.result is None for one, _ in found) else "within its interval"
    return Table(f"What it costs, and the band as good ({within} of the best loss)", heads, rows, "", first=True)


def _price_table(found: Sequence[tuple[Answer, Design]]) -> Table:
    names = list(dict.fromkeys(name for one, _ in found for name in one.prices))
    rows = tuple((f"{flag(name)}", *(_price(one.prices[name].doubled) if name in one.prices else "" for one, _ in found)) for name in names)
    return Table("What twice a limit brings (nats)", ("Limit", *(one.predictor.name for one, _ in found)), rows)


def _outside(one: Answer) -> str:
    """`E 2.6x`: how many times beyond its runs; a law of unknown ranges says nothing."""
    return ", ".join(f"{column} {times:.3g}x" for column, times in one.outside.items())


def _doublings(found: Sequence[tuple[Answer, Design]]) -> list[str]:
    """What a doubling of each limit brings, over the laws, in a sentence; those that bind in none last."""
    brings, idle = list[str](), list[str]()
    for name in dict.fromkeys(name for one, _ in found for name in one.prices):
        gains = [-one.prices[name].doubled.value for one, _ in found if name in one.prices]
        low, high = min(gains), max(gains)
        if high < _IDLE:
            idle.append(flag(name))
        else:
            brings.append(f"{flag(name)}: {_span((max(low, 0.0), high), lambda x: plain(x, 3))}")
    words = [
        "A doubling brings, in nats, " + ", ".join(brings) + "." if brings else "",
        f"{listing(idle)} would bring nothing." if idle else "",
    ]
    return [" ".join(word for word in words if word)] if brings or idle else []


def _price(one: Estimate) -> str:
    if one.value > -_IDLE:
        return "does not bind"
    return plain(one.value, 4) if one.low is None or one.high is None else interval(one.value, one.low, one.high)


def _left_out(left_out: Iterable[tuple[str, str]]) -> Table:
    return Table("Left out", ("Law", "Why"), tuple(left_out))


def _notes(answers: Sequence[Answer], left_out: Iterable[tuple[str, str]]) -> list[Note]:
    notes: list[Note] = []
    for one in answers:
        name = one.predictor.name
        notes += [Note("warning", name, "known-against", text) for text in one.flags]
    every = {one.predictor.architecture.every for one in answers if not one.predictor.dense}
    if len(every) > 1:
        notes.append(Note("note", "", "conventions", "E counts in every block, of Clark's laws and those fitted in every second one"))
    if names := listing(dict.fromkeys(name.partition(":")[0] for name, _ in left_out)):
        notes.append(Note("note", "", "left-out", f"left out: {names} (--full says why)"))
    return notes


def design_document(
    question: Question, answers: Sequence[Answer], left_out: Sequence[tuple[str, str]], sections: Sequence[Section] = (),
    findings: Sequence[str] = (),
) -> Document:  # fmt: skip
    """What is shown: verdict, tables, warnings, conventions and figures; `sections` and `findings` come after ours."""
    found = [(one, one.best) for one in answers if one.best is not None]
    tables = (_best_table(found), _cost_table(found), _price_table(found)) if found else ()
    laws = [(one.predictor.law, one.predictor) for one in answers]
    rows = tuple((by.name, law.formula, law.conventions or "N: dense size, no embeddings", by.architecture.text) for law, by in laws)
    words = (
        "Memory: of a training step with AdamW, activations among it, as cli.py plan --closed-form has it, in train's leanest setting "
        f"(matrices spread over the devices, blocks computed again); {SERVING_BYTES:g} bytes a parameter served. "
        "E and k in units of a dense feed-forward's width: at granularity G a layer has E x G experts, of which a token uses k x G."
    )
    without = (_left_out(left_out),) if left_out else ()
    about = Section("Conventions", (words, Table("Laws", ("Law", "Formula", "Its N, S, G", "Architecture"), rows), *without))
    return Document(
        "Design within " + ", ".join(question.texts()), verdict(answers), (*_doublings(found), *findings), tuple(_notes(answers, left_out)),
        (Section("Designs", (*tables, *_figures(answers))), *sections, about),
    )  # fmt: skip


def _figures(answers: Sequence[Answer]) -> tuple[Figure, ...]:
    """What is drawn; matplotlib is imported when it is."""
    shown = [one for one in answers if one.best is not None and one.across]
    found: list[Figure] = []

    def plane() -> "MatplotlibFigure":
        """The loss over experts and active size."""
        from fit.design.figures import loss_plane

        return loss_plane(shown)

    def budgets() -> "MatplotlibFigure":
        """The best loss against the budget."""
        from fit.design.figures import frontier

        return frontier(answers)

    if shown:
        caption = (
            "Loss over E (or G) and active parameters, each design with the most tokens it may read, and where the limits end. "
            "In explorer.html beside this page the limits can be moved."
        )
        found.append(Figure("plane", caption, plane))
    if any(one.best is not None and one.question.flops is not None for one in answers):
        found.append(Figure("frontier", "The least loss at other training budgets, all other limits as they are.", budgets))
    return tuple(found)


def design_json(question: Question, answers: Sequence[Answer], left_out: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The same at full precision; docs/json.md lists every key."""
    common = agreement(answers)
    return cleaned({
        "schema": SCHEMA,
        "question": asdict(question),
        "verdict": verdict(answers),
        "agreement": asdict(common),
        "answers": [_record(one) for one in answers],
        "left_out": [{"law": name, "reason": reason} for name, reason in left_out],
    })  # fmt: skip


def _record(one: Answer) -> dict[str, Any]:
    """One law's answer."""
    predictor, best = one.predictor, one.best
    return {
        "law": predictor.name, "formula": predictor.law.formula, "source": predictor.law.source,
        "conventions": predictor.law.conventions, "architecture": predictor.architecture.text, "fitted": predictor.result is not None,
        "best": None if best is None else {**asdict(best), "loss": figure_cells(best.loss)},
        "band": None if one.band is None else asdict(one.band),
        "prices": {name: {"doubled": figure_cells(price.doubled), "slope": price.slope} for name, price in one.prices.items()},
        "stopped": one.stopped, "flags": list(one.flags), "outside": dict(one.outside),
    }  # fmt: skip
