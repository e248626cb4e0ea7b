"""A fit's report: what its sentences say, that numbers are whole in the data files, and that it is the same twice."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from fit.analysis import Analysis, Estimate, Options, Point, Skipped, analyse
from fit.load.runs import Runs, load_runs
from fit.report import coefficients_csv, draws_csv, fit_document, fit_json, latex_table, write_report
from fit.report.findings import headline, sign
from fit.show.document import Document
from fit.show.render.terminal import show
from fit.studies.compare import compare, compare_json
from fit.studies.reproduce import reproduce, reproduce_json
from golden import simulated_curves

LAWS = ("dense", "per-size", "separable", "bilinear", "bounded")
DOCUMENTED = Path(__file__).parents[2] / "docs" / "json.md"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(load_runs(simulated_curves()), Options(laws=LAWS, draws=40))


@pytest.fixture(scope="module")
def small() -> Analysis:
    return analyse(load_runs(simulated_curves()), Options(laws=("bounded",), routers=("S-Base",), draws=40))


@pytest.fixture(scope="module")
def written(small: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_report(small, directory)
    return directory


def printed(document: Document, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(document, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def with_derived(analysis: Analysis, router: str, **figures: Estimate) -> Analysis:
    """The analysis with some of a router's derived figures replaced."""
    results = tuple(replace(r, derived={**r.derived, **figures}) if r.router == router else r for r in analysis.results)
    return replace(analysis, results=results)


# Findings


def test_simulated_runs_are_called_so_in_the_title_and_first(analysis: Analysis) -> None:
    document = fit_document(analysis)
    assert "simulated" in document.title
    assert "simulated" in document.findings[0]


def test_released_runs_are_not_called_simulated(released_runs: Runs) -> None:
    document = fit_document(analyse(released_runs, Options(laws=("dense",), draws=0)))
    assert "simulated" not in printed(document)


def test_the_finding_is_first_and_short(analysis: Analysis) -> None:
    document = fit_document(analysis)
    assert 3 <= len(document.findings) <= 6
    assert printed(document).index(document.findings[0][:20]) < 200


@pytest.mark.parametrize("width", [80, 200])
def test_no_line_of_the_report_is_wider_than_the_terminal(analysis: Analysis, width: int) -> None:
    assert max(cell_len(line) for line in printed(fit_document(analysis), width).splitlines()) <= width


def test_findings_quote_the_papers_law_first(analysis: Analysis) -> None:
    assert {result.law.name for result in headline(analysis)} == {"bounded"}
    assert [result.router for result in headline(analysis)] == ["S-Base", "Hash", "RL-R"]


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (Estimate(1.0, 0.5, 2.0), 1), (Estimate(-1.0, -2.0, -0.5), -1), (Estimate(1.0, -0.5, 2.0), 0),
        (Estimate(1.0), None), (Estimate(1.0, float("nan"), float("nan")), None),
    ],
)  # fmt: skip
def test_a_sign_is_known_only_where_the_interval_keeps_clear_of_nought(figure: Estimate, expected: int | None) -> None:
    assert sign(figure) == expected


def test_sentences_follow_the_results(small: Analysis) -> None:
    def shrinks(c: Estimate) -> str:
        result = small.results[0]
        changed = replace(small, results=(replace(result, coefficients={**result.coefficients, "c": c}),))
        return next(text for text in fit_document(changed).findings if "gains from experts" in text)

    assert "shrink" in shrinks(Estimate(0.01, 0.005, 0.015))
    assert "grow" in shrinks(Estimate(-0.01, -0.015, -0.005))
    assert "may or may not" in shrinks(Estimate(0.01, -0.005, 0.015))


def test_overlapping_intervals_do_not_rank(analysis: Analysis) -> None:
    point = next(name for name in reversed(headline(analysis)[0].derived) if name.startswith("loss("))
    apart = with_derived(analysis, "S-Base", **{point: Estimate(1.0, 0.9, 1.1)})
    assert any("puts S-Base first" in text and "intervals separate" in text for text in fit_document(apart).findings)
    near = with_derived(analysis, "S-Base", **{point: Estimate(1.0, 0.9, 5.0)})
    assert any("puts S-Base first" in text and "not certain" in text for text in fit_document(near).findings)


def test_an_infinite_cutoff_reads_as_no_end(small: Analysis) -> None:
    endless = with_derived(small, "S-Base", n_cutoff=Estimate(np.inf, 1e12, np.inf, True, "parameters"))
    assert any("never stop helping for S-Base" in text for text in fit_document(endless).findings)


def test_without_draws_no_interval_is_claimed() -> None:
    bare = analyse(load_runs(simulated_curves()), Options(laws=("bounded",), routers=("Hash",), draws=0))
    shown = printed(fit_document(bare))
    assert "there are no intervals" in " ".join(shown.split())
    assert "none, none" not in shown
    assert fit_json(bare)["fits"][0]["resampling"] is None


def test_extrapolated_figures_are_marked(analysis: Analysis) -> None:
    cells = [cell for table in fit_document(analysis).tables() for row in table.rows for cell in row]
    shown = printed(fit_document(analysis))
    assert sum(cell.endswith("†") for cell in cells) > 10
    assert "extrapolated" in shown


def test_units_stand_below_the_coefficients(analysis: Analysis) -> None:
    shown = printed(fit_document(analysis))
    assert "E_start and E_max: experts" in shown
    assert "N_c: parameters" in shown


def test_skipped_laws_are_listed_with_their_reason(small: Analysis) -> None:
    shown = printed(fit_document(replace(small, skipped=(Skipped("Hash", "bounded", "too few runs"),))))
    assert "too few runs" in shown


# JSON


def paths(value: Any, at: str = "") -> Iterator[str]:
    """Every key of a JSON value as docs/json.md writes it; names of parameters and figures are NAME."""
    if isinstance(value, dict):
        for key, item in value.items():
            named = at.endswith((".coefficients", ".derived", ".values", "rankings[].scores")) or at in ("valleys", "seeds")
            yield from paths(item, f"{at}.{'NAME' if named else key}".removeprefix("."))
    elif isinstance(value, list) and value:
        for item in value:
            yield from paths(item, f"{at}[]")
    if (at and not at.endswith((".NAME", "[]"))) or not isinstance(value, dict | list):
        yield at


def documented(title: str) -> set[str]:
    part = DOCUMENTED.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE))


# Objects whose keys are documented, not they themselves.
PLAIN = re.compile(
    r"provenance|selection|fits\[\]\.(coefficients|derived|objective|certificate)|variants\[\]\.values|rankings\[\]\.scores|valleys|seeds"
)

# Described by a sentence that points to where the same keys are listed.
ELSEWHERE = re.compile(
    r"(provenance|selection|fits|skipped)\b.*|sensitivity\[\]\.(choices|targets|steps)\[\].*|claims\[\].*|seeds\.NAME\..*"
)


def undocumented(record: dict[str, Any], title: str) -> set[str]:
    known = documented(title)
    return {path for path in paths(record) if not known & {path, f"{path}[]", path.removesuffix("[]")} and not PLAIN.fullmatch(path)}


def test_every_key_of_the_json_is_documented(analysis: Analysis, released_runs: Runs) -> None:
    asked = Options(laws=("bounded",), routers=("Hash",), draws=25, points=(Point(1e8, 8.0),))
    for found in (analysis, analyse(released_runs, asked)):
        found = replace(found, skipped=(Skipped("Hash", "floor", "why"),))
        assert undocumented(fit_json(found), "fit.json") == set()


def test_every_key_of_a_comparison_is_documented() -> None:
    runs = load_runs(simulated_curves()).where("router_type == 'Dense' or router_type == 'Hash'")
    record = compare_json(compare(runs, Options(laws=("separable", "bounded"), draws=25)))
    assert {path for path in undocumented(record, "compare.json") if not ELSEWHERE.fullmatch(path)} == set()


def test_every_key_of_a_reproduction_is_documented(released_runs: Runs) -> None:
    record = reproduce_json(reproduce(released_runs, Options(draws=25)))
    assert {path for path in undocumented(record, "reproduce.json") if not ELSEWHERE.fullmatch(path)} == set()


def test_every_key_of_the_assessment_is_documented(written: Path) -> None:
    record = json.loads((written / "assessment.json").read_text(encoding="utf-8"))
    assert undocumented(record, "assessment.json") == set()


def test_json_is_strict_and_whole(analysis: Analysis) -> None:
    text = json.dumps(fit_json(analysis), allow_nan=False)
    for result, fit in zip(analysis.results, json.loads(text)["fits"], strict=True):
        # Every digit survives: equal, not near.
        assert {name: one["value"] for name, one in fit["coefficients"].items()} == result.fit.parameters
        assert fit["objective"]["rmse_log10"] == result.fit.rmse_log10
        assert fit["runs"] == len(result.runs)


def test_numbers_that_are_not_finite_are_null_and_say_why(small: Analysis) -> None:
    endless = with_derived(small, "S-Base", n_cutoff=Estimate(np.inf, 1e12, np.inf, True, "parameters"))
    fit = fit_json(endless)["fits"][0]
    assert fit["derived"]["n_cutoff"]["value"] is None
    assert fit["derived"]["n_cutoff"]["low"] == 1e12
    messages = [warning["message"] for warning in fit["warnings"] if warning["code"] == "not-finite"]
    assert [message.split(" ")[0] for message in messages] == ["derived.n_cutoff.value", "derived.n_cutoff.high"]


def test_provenance_holds_what_it_takes_to_repeat_and_no_time_or_machine(analysis: Analysis) -> None:
    found = fit_json(analysis)["provenance"]
    assert found["files"][0]["sha256"] == analysis.runs.sources[0].sha256
    assert (found["seed"], found["draws"], found["simulated_runs"]) == (0, 40, len(analysis.runs))
    assert not re.search(r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d", json.dumps(found))


# Files


def test_a_report_without_files_imports_no_plotting() -> None:
    code = "import sys, fit.report, fit.show.render.terminal; print([m for m in ('matplotlib', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DOCUMENTED.parents[1])
    assert done.stdout.strip() == "[]"


def test_draws_hold_every_draw_at_full_precision(small: Analysis) -> None:
    rows = list(csv.DictReader(io.StringIO(draws_csv(small))))
    draws = small.results[0].draws
    assert draws is not None
    values = small.results[0].law.parameter_values(draws.refits.theta, draws.refits.beta)
    found = np.array([[float(row[name]) for name in small.results[0].law.parameter_names] for row in rows])
    np.testing.assert_array_equal(found, values)
    assert [row["draw"] for row in rows] == [str(k) for k in range(1, len(draws) + 1)]


def test_coefficients_are_a_row_each_at_full_precision(analysis: Analysis) -> None:
    rows = list(csv.DictReader(io.StringIO(coefficients_csv(analysis))))
    expected = [(r.router, r.law.name, name, one.value) for r in analysis.results for name, one in r.coefficients.items()]
    assert [(row["router"], row["law"], row["parameter"], float(row["value"])) for row in rows] == expected


def test_latex_has_a_table_for_each_law(analysis: Analysis) -> None:
    shown = latex_table(analysis)
    assert shown.count(r"\begin{table}") == shown.count(r"\end{table}") == len(LAWS)
    assert r"$E_{\mathrm{start}}$" in shown
    assert r"log $\hat{E}$" in shown


def test_a_report_has_all_its_files(written: Path) -> None:
    found = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    figures = ["equal-loss", "loss-by-effective-size", "loss-by-experts", "loss-by-size", "objective", "residuals", "roll-out"]
    assert found == sorted(
        [
            "assessment.json", "coefficients.csv", "coefficients.tex", "draws.csv", "fit.json", "report.html", "report.md",
            *(str(Path("figures") / f"{name}.svg") for name in figures),
        ]
    )  # fmt: skip


def test_the_same_report_twice_is_the_same_bytes(small: Analysis, written: Path, tmp_path: Path) -> None:
    again = analyse(load_runs(simulated_curves()), small.options)
    for path in write_report(again, tmp_path):
        assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes()


def test_the_written_json_is_the_printed_one(small: Analysis, written: Path) -> None:
    assert json.loads((written / "fit.json").read_text(encoding="utf-8")) == json.loads(json.dumps(fit_json(small)))


def test_the_page_is_self_contained(written: Path) -> None:
    found: list[tuple[str, dict[str, str | None]]] = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    page = (written / "report.html").read_text(encoding="utf-8")
    Elements().feed(page)
    tags = [tag for tag, _ in found]
    assert tags.count("svg") == tags.count("figcaption") == 7
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not re.search(r"https?:|@import", page)
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value for _, attributes in found for key in ("href", "src") if (value := attributes.get(key))}
    assert targets <= {f"#{one}" for one in ids}


def test_the_markdown_links_every_figure(written: Path) -> None:
    linked = re.findall(r"\]\((figures/[^)]+)\)", (written / "report.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(str(path.relative_to(written)) for path in (written / "figures").iterdir())


def test_the_report_says_how_it_does_on_runs_held_out(written: Path) -> None:
    shown = (written / "report.md").read_text(encoding="utf-8")
    assert "Held out: fitted to smaller sizes" in shown
    assert "without 15M" in shown


def test_progress_ends_at_its_total(small: Analysis, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_report(small, tmp_path, lambda done, total, what: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
