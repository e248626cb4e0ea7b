"""`design`: from a budget to a model."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands.fitting import Curves
from commands.shared import Flat, Names, Output, finish, progress_shown, split

if TYPE_CHECKING:
    from fit.design.predictor import Predictor
    from fit.design.question import Question
    from plan.chips import Topology

LAWS, AT_ONE_LENGTH = ("tokens-experts", "tokens"), ("bounded-floor", "dense-floor")
"""Fitted to runs unless others are named: a routed law that reads tokens and the dense one beside it, or, of runs that all have as many,
such without."""


@dataclass(frozen=True)
class Design:
    """From a budget to a model: the best N, E, k, G and D within limits, by published laws side by side or by laws fitted to runs.

    Numbers as people write them, such as 1e21, 300B or 80GB. Default: every published law that can answer.
    """

    runs: Flat[Curves] = field(default_factory=Curves)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to ask, such as joint,granularity:E=64 or, with runs, tokens-experts."""
    flops: str = ""
    """Training FLOPs, of the whole life with --lifetime-tokens."""
    chips: str = ""
    """A slice of chips in place of --flops, such as v5p:2x2x4 or h100:8, with --hours."""
    hours: float | None = None
    """Hours on --chips."""
    utilisation: float = 0.4
    """Share of the chips' peak that training uses."""
    memory: str = ""
    """For training, such as 8x80GB, eight devices with 80 GB each; default with --chips: theirs."""
    serve_memory: str = ""
    """For serving, such as 24GB: 2 bytes a parameter."""
    serve_flops: str = ""
    """FLOPs of one token's forward pass."""
    lifetime_tokens: str = ""
    """Tokens to be served: their FLOPs count into --flops (Sardana et al. 2023)."""
    tokens: str = ""
    """Tokens there are to train on."""
    repeat: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read --tokens more than once: they are worth less each time (Muennighoff et al. 2023)."""
    loss: float | None = None
    """The cheapest model that reaches this loss, in nats per token."""
    max_experts: int | None = None
    """Most experts of a layer, E x G."""
    experts: int | None = None
    """E, fixed."""
    k: int | None = None
    """k, fixed."""
    granularity: int | None = None
    """G, fixed: experts are 1/G as wide as a dense feed-forward, and E x G and k x G in number."""
    draws: int = 1000
    """Bootstrap draws of a fit; 0 for none."""
    seed: int = 0
    """Seed of the draws."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the explorer that --out writes in the browser."""

    def run(self) -> None:
        """Answer, print, and write the page and the explorer if asked for."""
        from commands.building import built, built_finding, built_section
        from commands.program import named
        from fit.design.answer import answers
        from fit.design.report import design_document, design_json
        from training.toml import to_toml

        question, folder = self.question(), self._folder()
        predictors, left_out = self._predictors()
        found, left_out = answers(question, predictors, left_out)
        models = [one for each in found if (one := built(each)) is not None]
        section = (built_section(models, self.chips or f"h100:{question.devices}"),) if models else ()
        files = {one.file: to_toml(one.config) for one in models}
        if folder:
            from fit.design.explorer import explorer

            files["explorer.html"] = explorer(question, found, " ".join(self.runs.curves))
        finish(
            self.output,
            "design",
            lambda: design_json(question, found, left_out) | {"models": [one.record() for one in models]},
            lambda: design_document(question, found, left_out, section, tuple(map(named, built_finding(models)))),
            files,
        )
        if folder:
            self._show(folder / "explorer.html")

    def _folder(self) -> Path | None:
        """Where files go. Raises `InputError` where there is nothing to open."""
        from common.errors import InputError

        if self.open and not self.output.out:
            raise InputError("--open shows the explorer that --out writes; give both, such as --out design --open")
        return self.output.out

    def _show(self, page: Path) -> None:
        """Say where the explorer is, and open it if asked to."""
        import webbrowser

        if not self.output.json:
            print(f"Explorer: {page}")
        if self.open and not webbrowser.open_new_tab(page.resolve().as_uri()):
            print(f"no browser was found to open {page}", file=sys.stderr)

    def question(self) -> "Question":
        """The limits and fixed values that the options say. Raises `InputError` for what cannot be read or met."""
        from fit.design.question import Question

        values = {name: _amount(name, getattr(self, name)) for name in ("flops", "serve_flops", "lifetime_tokens", "tokens")}
        (values["memory"], devices), (values["serve_memory"], _) = (_bytes(one, getattr(self, one)) for one in ("memory", "serve_memory"))
        chips = self._chips()
        if chips is not None:
            values["flops"] = self._flops(chips, values["flops"])
            devices = devices or chips.devices
            values["memory"] = values["memory"] or float(chips.devices * chips.chip.hbm)
        rest = {each.name: getattr(self, each.name) for each in fields(Question) if each.name not in {*values, "devices"}}
        return Question(**values, **rest, devices=devices or 1)

    def _chips(self) -> "Topology | None":
        """Those of --chips. Raises `InputError` where --hours is not there with them."""
        from common.errors import InputError
        from plan.chips import Topology

        if bool(self.chips) != (self.hours is not None):
            raise InputError("--chips and --hours go together, such as --chips v5p:2x2x4 --hours 100 --utilisation 0.4")
        return Topology(self.chips) if self.chips else None

    def _flops(self, chips: "Topology", given: float | None) -> float:
        """Chips x hours x utilisation."""
        from common.errors import InputError

        hours = self.hours or 0.0
        if given is not None:
            raise InputError("--flops and --chips both set the training budget; give one of them")
        if not (hours > 0 and 0 < self.utilisation <= 1):
            raise InputError(f"--hours {hours:g} --utilisation {self.utilisation:g}: must be above 0, and the share at most 1")
        return chips.devices * chips.chip.flops * 3600 * hours * self.utilisation

    def _predictors(self) -> "tuple[list[Predictor], list[tuple[str, str]]]":
        """Published laws, or with runs the laws fitted to them, and those that cannot answer."""
        from fit.design.predictor import of_result, published_predictors

        if not self.runs.curves:
            return published_predictors(split(self.law))
        from fit.analysis import Options, analyse
        from fit.causes import vary
        from fit.runs.schema import D

        runs = self.runs.load()
        laws = split(self.law) or (LAWS if runs.has(D) and vary(runs.columns[D]) else AT_ONE_LENGTH)
        with progress_shown() as progress:
            analysis = analyse(runs, Options(laws=laws, draws=self.draws, seed=self.seed), progress)
        made = [(f"{one.law.name} ({one.router})", of_result(one)) for one in analysis.results]
        left_out = [(f"{one.law} ({one.router})", one.reason) for one in analysis.skipped]
        left_out += [(name, one) for name, one in made if isinstance(one, str)]
        return [one for _, one in made if not isinstance(one, str)], left_out


def _amount(name: str, text: str) -> float | None:
    """A number as people write it; None for none."""
    from common.errors import InputError
    from fit.design.question import flag
    from fit.runs.cells import parsed

    if not text:
        return None
    value = parsed(text)
    if value is None or not value > 0:
        raise InputError(f"{flag(name)} {text}: must be a number above 0, such as 1e21 or 300B")
    return value


def _bytes(name: str, text: str) -> tuple[float | None, int | None]:
    """Bytes from 80GB, 8x80GB or a plain number, and the devices if it says; a kilobyte has 1000 bytes, a kibibyte (KiB) 1024."""
    import re

    from common.errors import InputError
    from fit.design.question import flag

    if not text:
        return None, None
    found = re.fullmatch(r"(?:(\d+)x)?([\d.]+(?:e[+-]?\d+)?)\s*(?:([KMGTP])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    try:
        value = float(found[2]) * float(found[1] or 1) if found else 0.0
    except ValueError:
        value = 0.0
    if found is None or not value > 0:
        raise InputError(f"{flag(name)} {text}: must be bytes, such as 80GB, 8x80GB or 24GiB")
    value *= (1024.0 if found[4] else 1000.0) ** (" KMGTP".index(found[3].upper()) if found[3] else 0)
    return value, int(found[1]) if found[1] else None
