"""`explorer.html`: the question with sliders, the answers worked out in the page by the formulas of here, which it has recorded.

Only the search is written in JavaScript (`explorer_search.js`, after `search.py` and `answer.py`, and `explorer_page.js`, which shows it);
laws, parameters, FLOPs, tokens and memory are what Python runs, and coefficients and draws the same numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from fit.design.answer import NEAR, Answer
from fit.design.explorer_trace import Recording
from fit.design.memory import training_bytes
from fit.design.predictor import RAY, Predictor, of_published
from fit.design.question import SERVING_BYTES, Question
from fit.design.search import GRANULARITIES, LARGEST, MOST_EXPERTS, SMALLEST, Space, expert_counts
from fit.literature import published_all
from fit.report.record import cleaned
from fit.runs.schema import A, C, E, G, K, U, short
from fit.uncertainty.intervals import WIDEST, tail, too_many_failed


@dataclass(frozen=True, eq=False)
class _Recorded(Space):
    """A space of one design whose use is recorded, k too."""

    used: float = 1.0

    @property
    def k(self) -> float:
        """In units of a dense feed-forward's width."""
        return self.used


def model(predictor: Predictor) -> str:
    """The formulas of a law as an object of JavaScript functions of (x, e, g, q, t, b).

    x is log N_a, q the question, t and b the law's shape parameters and coefficients. A limit that is not given is infinite there,
    `lifetime_tokens` 0. `repeated` has those that differ where tokens are read more than once.
    """
    once, again = _formulas(predictor, repeat=False), _formulas(predictor, repeat=True)
    differ = {name: text for name, text in again.items() if text != once[name]}
    return f"{{{_functions(once)},repeated:{{{_functions(differ)}}}}}"


def _functions(formulas: Mapping[str, str]) -> str:
    return ",".join(f"{json.dumps(name)}(x,e,g,q,t,b){{{text}}}" for name, text in formulas.items())


def _formulas(predictor: Predictor, repeat: bool) -> dict[str, str]:
    """The body of each function by name; columns that the law's runs have a range of begin with `in `."""
    it = Recording()
    flops, tokens, served, devices = (it.number(f"q.{name}") for name in ("flops", "tokens", "lifetime_tokens", "devices"))
    asked = Question(flops=flops, tokens=tokens, lifetime_tokens=served, repeat=repeat)
    cell = _Recorded(asked, predictor, it.numbers(["e"]), it.numbers(["g"]), it.number("q.k"))
    x, architecture = it.numbers(["x"]), predictor.architecture
    theta, beta = (
        it.numbers([f"{name}[{k}]" for k in range(len(values))]) for name, values in (("t", predictor.theta), ("b", predictor.beta))
    )
    total, per_token, most = cell.total(x), cell.flops_per_token(x), cell.tokens(x)
    found = {
        "total": total, "flops": per_token, "most_tokens": most, "served": SERVING_BYTES * total, "body": architecture.body(np.exp(x)),
        "memory": training_bytes(architecture, np.exp(x), cell.e, cell.k, cell.g, devices), "loss": cell.loss(x, theta, beta),
    }  # fmt: skip
    columns = cell.columns(x, most) | {E: cell.e, C: per_token * most}
    found |= {f"in {short(name)}": columns[name] for name in predictor.ranges if name in columns}
    return {name: it.javascript(one) for name, one in found.items()}


def _law(predictor: Predictor, number: int, chosen: bool) -> dict[str, Any]:
    """What the page knows of a law beside its formulas, which are those of this number."""
    columns, result = predictor.law.columns, predictor.result
    record: dict[str, Any] = {
        "name": predictor.name, "law": predictor.law.name, "formula": predictor.law.formula, "source": predictor.law.source,
        "architecture": predictor.architecture.text, "model": number, "chosen": chosen, "theta": predictor.theta.tolist(),
        "beta": predictor.beta.tolist(), "dense": predictor.dense, "experts": predictor.experts, "tokens": predictor.tokens,
        "reads": {"k": K in columns or A in columns, "g": G in columns, "u": U in columns},
        "ranges": {short(name): ends for name, ends in predictor.ranges.items() if name in (*columns, E, C)}, "fitted": result is not None,
        "ray": RAY if predictor.name == "sparsity" else "", "flags": predictor.flags(Question(flops=1.0)), "draws": None,
    }  # fmt: skip
    if result is not None and (draws := result.draws) is not None:
        level, fit = result.options.level, result.fit
        known = fit.certificate.identified and fit.degrees >= 1 and not too_many_failed(draws.refits.usable, level)
        least = tail(draws, level)
        if known and least * (len(draws.theta) + 1) >= 1:
            record["draws"] = {"theta": draws.theta.tolist(), "beta": draws.beta.tolist(), "tail": least}
    return record


def _offered(answers: Sequence[Answer]) -> list[tuple[Predictor, bool]]:
    """The laws that were asked, and every published one that could be; the page begins with the former."""
    asked = {one.predictor.name: one.predictor for one in answers}
    published = [made for one in published_all() if isinstance(made := of_published(one), Predictor)]
    rest = [one for one in published if one.name not in asked]
    return [*((one, True) for one in asked.values()), *((one, False) for one in rest)]


def data(question: Question, answers: Sequence[Answer], runs: str = "") -> tuple[dict[str, Any], list[str]]:
    """What the page is about, and the formulas of its laws; `runs`: the file that laws were fitted to."""
    numbers: dict[str, int] = {}
    laws: list[dict[str, Any]] = []
    for predictor, chosen in _offered(answers):
        text = model(predictor)
        laws.append(_law(predictor, numbers.setdefault(text, len(numbers)), chosen))
    asked = asdict(question)
    if asked.pop("loss") is not None:
        asked["flops"] = max(one.question.flops or 0.0 for one in answers)
    every = expert_counts(Question(flops=1.0), next(one for one, _ in _offered(answers) if not one.dense and one.experts is None), 1)
    record = {
        "question": asked, "laws": laws, "runs": runs, "counts": every.tolist(), "granularities": GRANULARITIES, "most": MOST_EXPERTS,
        "smallest": float(np.log(SMALLEST)), "largest": float(np.log(LARGEST)), "near": NEAR, "widest": WIDEST,
    }  # fmt: skip
    return cleaned(record), list(numbers)


def explorer(question: Question, answers: Sequence[Answer], runs: str = "") -> str:
    """The page as one HTML file that needs nothing else and asks no network."""
    from common.plots import DARK, ROUTERS

    record, models = data(question, answers, runs)
    own = files("fit.design")
    colours = [(f"--law{k}", light, DARK[light]) for k, light in enumerate(ROUTERS)]
    # In a script `</script` would end it, and `<!--` hide its end.
    given = json.dumps(record, allow_nan=False).replace("<", "\\u003c")
    script = f"const DATA = {given};\nconst MODELS = [" + ",\n".join(models) + "];\n"
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        own.joinpath("explorer.html").read_text("utf-8")
    )
    return template.render(
        style=Markup(files("common.document").joinpath("templates/style.css").read_text("utf-8")), colours=colours,
        script=Markup(script + "".join(own.joinpath(f"explorer_{part}.js").read_text("utf-8") for part in ("search", "page"))),
    )  # fmt: skip
