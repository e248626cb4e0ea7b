"""In a browser the explorer's answers are the library's.

The browser is Chromium (Debian's `chromium`), driven by Playwright, which brings none: without one these tests are skipped.
"""

import json
import math
import re
import shutil
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fit.analysis import Options, analyse
from fit.design.answer import Answer, answer
from fit.design.explorer import explorer
from fit.design.predictor import Predictor, of_published, of_result
from fit.design.question import Question
from fit.literature import published_all
from fit.runs import load_runs
from tests.checks import unchecked

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

pytestmark = pytest.mark.extras

SMALL = Path(__file__).parents[3] / "golden" / "small_tokens.csv"
PUBLISHED = [made for one in published_all() if isinstance(made := of_published(one), Predictor)]
FORMS = [one for one in PUBLISHED if one.name not in ("tokens:Hoffmann", "bounded:RL-R", "bounded:Hash")]
"""One of each form."""

FIRST = Question(flops=1e21, memory=640e9, devices=8)

QUESTIONS = (
    FIRST,
    Question(flops=1e21, memory=640e9, devices=24),
    Question(flops=1e21),
    Question(flops=1e21, memory=640e9, devices=8, tokens=1e10, repeat=True),
    Question(flops=3e19, serve_memory=24e9, max_experts=600),
    Question(flops=1e22, memory=1e13, serve_flops=3e9, lifetime_tokens=2e11),
    Question(flops=1e21, tokens=2e10, memory=2e11, max_experts=300),
    Question(flops=1.02e21, tokens=130e9, memory=640e9),
    Question(flops=1e21, experts=8),
    Question(flops=1e21, k=2, memory=640e9, devices=8),
    Question(flops=1e22, k=16, memory=1e10),
    Question(flops=1e21, lifetime_tokens=1e11, experts=32),
    Question(flops=1e20, granularity=4, memory=3e11),
    Question(tokens=1e11, memory=1e12),
    Question(flops=1e22, memory=1000.0),
    Question(tokens=1e11, max_experts=64),
)


@pytest.fixture(scope="module")
def fitted() -> list[Predictor]:
    """Two laws fitted to the small runs, with draws."""
    with unchecked():
        results = analyse(load_runs(str(SMALL)), Options(laws=("tokens-experts", "tokens"), draws=100, level=0.8)).results
        return [made for one in results if isinstance(made := of_result(one), Predictor)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, fitted: list[Predictor]) -> dict[str, Path]:
    """The explorer of the published laws, and of the fitted ones."""
    folder = tmp_path_factory.mktemp("explorer")
    asked = {
        "published": (FIRST, [one for one in PUBLISHED if one.name in ("joint", "granularity:E=64", "sparsity", "tokens:Besiroglu")]),
        "fitted": (Question(flops=1e14, memory=1e8), fitted),
    }
    for name, (question, laws) in asked.items():
        found = [one for law in laws if isinstance(one := answer(question, law), Answer)]
        (folder / f"{name}.html").write_text(explorer(question, found, "runs.csv" if name == "fitted" else ""), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in asked}


@pytest.fixture(scope="module")
def browser() -> "Generator[Browser]":
    """One Chromium for all tests here."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on the PATH to try the explorer in (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program)
        yield found
        found.close()


class Visit:
    """A page in a context of its own, with what it asked of the network and what it complained about."""

    def __init__(self, context: "BrowserContext", address: str) -> None:
        self.page: "Page" = context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def _requested(self, request: "Request") -> None:
        self.asked.append(request.url)

    def answers(self, question: Question, laws: list[Predictor]) -> dict[str, Any]:
        """What the page answers, by law."""
        state = {name: value for name, value in asdict(question).items() if name != "loss"} | {"laws": [one.name for one in laws]}
        found = self.page.evaluate("state => window.explorer.answer(state).map(({cells, ...rest}) => rest)", state)
        return {one["name"]: one for one in found}

    def table(self) -> str:
        """The table's text."""
        return self.page.inner_text("#table")


@pytest.fixture
def context(browser: "Browser") -> "Generator[BrowserContext]":
    """A context of its own for each test."""
    found = browser.new_context(viewport={"width": 1280, "height": 900})
    yield found
    found.close()


def compared(found: Answer, page: dict[str, Any]) -> None:
    """Hold the page's answer against the library's."""
    assert found.best is not None
    assert found.band is not None
    best, band = page["best"], page["band"]
    one = found.best
    assert (best["experts"], best["granularity"], best["k"]) == (one.experts, one.granularity, one.k)
    assert tuple(band["experts"]) == found.band.experts
    assert tuple(band["granularity"]) == found.band.granularity
    assert band["open"] == found.band.open_experts
    # Either search ends within 1e-7 of log N_a where the loss is flat to rounding: a loss that is flat to 1e-16 over a step h of log N_a,
    # with a curvature of some hundredths of its value, leaves h of 1e-7.
    for name, value in {
        "active": one.active, "total": one.total, "tokens": one.tokens, "flops": one.training_flops, "memory": one.memory,
        "served": one.serve_memory, "perToken": one.serve_flops,
    }.items():  # fmt: skip
        assert math.isclose(best[name], value, rel_tol=1e-6), (name, best[name], value)
    assert math.isclose(best["loss"], one.loss.value, rel_tol=1e-9)
    assert math.isclose(band["threshold"], found.band.threshold, rel_tol=1e-6)
    np.testing.assert_allclose(band["active"], found.band.active, rtol=1e-6)
    assert page["outside"] == pytest.approx(dict(found.outside), rel=1e-6)
    if one.loss.low is None or one.loss.high is None:
        assert best["interval"] is None
    else:
        np.testing.assert_allclose(best["interval"], [one.loss.low, one.loss.high], rtol=1e-6)


def test_published_laws_answer_as_the_library_does(context: "BrowserContext", pages: dict[str, Path]) -> None:
    visit = Visit(context, pages["published"].as_uri())
    designs = 0
    for question in QUESTIONS:
        there = visit.answers(question, FORMS)
        for law in FORMS:
            with unchecked():
                found = answer(question, law)
            if isinstance(found, str):
                assert there[law.name].get("reason"), (question, law.name)
            elif found.best is None:
                # The same edge in words of the page: up to what to give.
                assert "best" not in there[law.name]
                assert there[law.name]["stopped"].replace("memory", "--memory").split(" up to")[0][:22] == found.stopped[:22]
            else:
                compared(found, there[law.name])
                assert len(there[law.name]["flags"]) == len(found.flags)
                designs += 1
    assert designs > 50
    assert visit.complaints == []


def test_fitted_laws_have_the_librarys_intervals(context: "BrowserContext", pages: dict[str, Path], fitted: list[Predictor]) -> None:
    visit = Visit(context, pages["fitted"].as_uri())
    for question in (
        Question(flops=1e14, memory=1e8),
        Question(flops=3e13, tokens=1e7),
        Question(flops=2e14, serve_memory=4e6, experts=16),
    ):
        there = visit.answers(question, fitted)
        for law in fitted:
            found = answer(question, law)
            if isinstance(found, Answer) and found.best is not None:
                assert found.best.loss.known
                compared(found, there[law.name])
            else:
                assert "best" not in there[law.name]
    assert "[" in visit.table()
    assert visit.page.inner_text("#command") == "cli.py design runs.csv --flops 1e14 --memory 100MB --law tokens,tokens-experts"


def test_a_limit_that_leaves_no_design_says_what_to_raise_and_that_suffices(context: "BrowserContext", pages: dict[str, Path]) -> None:
    visit, joint = Visit(context, pages["published"].as_uri()), [one for one in PUBLISHED if one.name == "joint"]
    reason = visit.answers(Question(flops=1e22, memory=1000.0), joint)["joint"]["reason"]
    factor = float(reason.split("raise training memory ")[1].split(" times")[0])
    assert isinstance(answer(Question(flops=1e22, memory=1000.0 * factor), joint[0]), Answer)
    assert isinstance(answer(Question(flops=1e22, memory=1000.0 * (1 + (factor - 1) * 0.98)), joint[0]), str)


def test_a_link_holds_the_question(context: "BrowserContext", pages: dict[str, Path]) -> None:
    visit = Visit(context, pages["published"].as_uri())
    page = visit.page
    page.fill("#tokens", "20B")
    page.fill("#memory", "4x24GiB")
    page.check("#repeat")
    page.get_by_role("checkbox", name="sparsity").uncheck()
    page.click("#copy")
    there, address = visit.table(), page.url
    state = page.evaluate("window.explorer.state()")
    assert (state["memory"], state["devices"], state["repeat"]) == (4 * 24 * 1024**3, 4, True)
    assert page.inner_text("#command") == (
        f"cli.py design --flops 1e21 --memory 4x{24 * 1024**3} --tokens 20B --repeat --law tokens:Besiroglu,granularity:E=64,joint"
    )
    again = Visit(context, address)
    assert again.table() == there
    assert again.page.input_value("#tokens") == "20B"
    assert "sparsity" not in again.table()
    # As does a change of the link on a page that is open, and one that says nothing is the page's own question.
    page.evaluate("location.hash = 'flops=1e20&memory=3e11&law=joint'")
    page.wait_for_function("document.getElementById('flops').value === '1e20'")
    assert "granularity" not in visit.table()
    page.evaluate("location.hash = ''")
    page.wait_for_function("document.getElementById('flops').value === '1e21'")
    assert visit.complaints == again.complaints == []


def test_keys_move_a_slider_and_with_it_the_answers(context: "BrowserContext", pages: dict[str, Path]) -> None:
    visit = Visit(context, pages["published"].as_uri())
    page, before = visit.page, visit.table()
    page.focus("#flops-slider")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#flops") == "1.05e21"
    assert visit.table() != before
    assert page.get_attribute("#flops-slider", "aria-valuetext") == "1.05e21"
    page.keyboard.press("ArrowLeft")
    assert visit.table() == before
    page.keyboard.press("End")
    assert page.get_attribute("#flops-slider", "aria-valuetext") == "no limit"
    assert page.inner_text("#verdict") == "Nothing says how long to train: give training FLOPs or tokens."
    page.fill("#flops", "1e21")
    page.focus("#memory-slider")
    page.keyboard.press("End")
    assert "no interior optimum in E by FLOPs alone" in page.inner_text("#verdict")
    page.fill("#memory", "8x80GB")
    page.focus("#devices-slider")
    page.keyboard.press("ArrowRight")
    # Twice as many devices have twice the memory.
    assert page.input_value("#memory") == "16x80GB"
    assert page.evaluate("window.explorer.state().memory") == 16 * 80e9
    page.fill("#memory", "much")
    assert page.get_attribute("#memory", "aria-invalid") == "true"
    assert visit.complaints == []


def test_a_screen_reader_is_given_names_heads_and_what_is_drawn(context: "BrowserContext", pages: dict[str, Path]) -> None:
    page = Visit(context, pages["published"].as_uri()).page
    nameless = "[...document.querySelectorAll('input')].filter((one) => !one.labels.length && !one.ariaLabel).length"
    assert page.evaluate(nameless) == 0
    assert page.get_attribute("#verdict", "aria-live") == "polite"
    assert page.evaluate("[...document.querySelectorAll('th')].every((one) => ['row', 'col'].includes(one.scope))")
    drawing = page.get_by_role("img", name="Least loss over the number of experts")
    assert "joint: least loss 2.2449 at E = 88, as good for E of 30 to 253." in (drawing.get_attribute("aria-label") or "")
    page.focus("#flops-slider")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("name", ["published", "fitted"])
def test_nothing_leaves_the_page_and_a_phone_scrolls_down_alone(browser: "Browser", pages: dict[str, Path], name: str) -> None:
    paper: dict[str, str] = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme=scheme)
        visit = Visit(context, pages[name].as_uri())
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 375
        assert visit.asked == [pages[name].as_uri()]
        assert visit.complaints == []
        paper[scheme] = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}
    text = pages[name].read_text(encoding="utf-8")
    assert not re.search(r"src=|@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    assert json.loads(text.split("const DATA = ")[1].split(";\n")[0])["laws"]
