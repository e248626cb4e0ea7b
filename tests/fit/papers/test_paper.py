"""What every paper without runs shares: verdicts, digits, the search for a best model, JSON, and what the command refuses."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import brentq

from cli import main
from fit import papers
from fit.papers.paper import Figure, Group, Paper, Statement, crossing, judged, least, paper_document, paper_json, rises

DOCS = Path(__file__).parents[3] / "docs" / "json.md"
MADE_UP = Paper(
    "made-up", "A paper", ("a source",),
    (Statement("so", "yes", "1 > 0"), Statement("and so", "no", "0 < 1"), Statement("besides", "artefact", "form", stated=False)),
    (Group("A table", (Figure("n", "E = 2", 1.01e9, 1e9), Figure("n", "E = 4", 2.5, low=2.0, high=3.0))),), ("nothing else",),
)  # fmt: skip


def test_every_part_decides_the_verdict() -> None:
    assert [judged(True, True), judged(True, False), judged(False, False)] == ["yes", "half", "no"]
    assert rises(np.array([[1.0, 2.0], [2.0, 3.0]]))
    assert not rises(np.array([[1.0, 2.0], [2.0, 2.0]]))
    assert MADE_UP.verdict == "Of 2 statements: 1 yes, 0 half, 1 no; 1 artefact of the law beside them."


def test_digits_that_match_are_those_of_the_relative_difference() -> None:
    assert Figure("x", "", 1.01, 1.0).digits == pytest.approx(2)
    assert Figure("x", "", 1.0, 1.0).digits == 16
    assert Figure("x", "", 3.0, 1.0).digits == 0
    assert Figure("x", "", 1.0).digits is None


def test_the_least_point_is_found_wherever_it_is_and_at_an_end_too() -> None:
    def bowl(x: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        """Least at 3e8, where it is 1."""
        return 1 + np.log(x / 3e8) ** 2

    place, loss = least(bowl, 1e6, 1e14)
    # A square of 1e-16 beside 1 is a distance of 1e-8.
    assert place == pytest.approx(3e8, rel=1e-7)
    assert loss == pytest.approx(1, abs=1e-14)
    assert least(bowl, 1e6, 1e8)[0] == pytest.approx(1e8, rel=1e-12)
    assert least(bowl, 1e9, 1e10)[0] == pytest.approx(1e9, rel=1e-12)


def test_a_crossing_is_scipys_and_without_one_there_is_none() -> None:
    def rising(x: float) -> float:
        """Passes 0 at e^2."""
        return float(np.log(x)) - 2

    found: Any = brentq(rising, 1.0, 100.0)
    assert crossing(rising, 1.0, 100.0) == pytest.approx(found, rel=1e-12)
    with pytest.raises(ValueError, match="no crossing between 10 and 100"):
        crossing(rising, 10.0, 100.0)


def test_the_document_marks_what_is_not_stated_and_shows_printed_figures() -> None:
    tables = paper_document(MADE_UP).tables()
    assert [row[0] for row in tables[0].rows] == ["so", "and so", "(not stated) besides"]
    assert tables[1].rows == (("E = 2", "1.010B (1.000B)"), ("E = 4", "2.50 [2.00, 3.00]"))
    assert tables[2].rows == (("n", "E = 2", "1.000B", "1.010B", "2.0"),)


def test_every_key_of_the_json_is_documented() -> None:
    record, section = paper_json(MADE_UP), DOCS.read_text().split("## Papers without runs")[1].split("\n## ")[0]
    keys = {f"{key}[]" if isinstance(value, list) and isinstance(value[0], str) else key for key, value in record.items()}
    keys -= {"statements", "figures"}
    keys |= {f"{name}[].{key}" for name in ("statements", "figures") for key in record[name][0]}
    assert {key for key in keys if f"| `{key}` |" not in section} == set()
    assert section.count("\n| `") == len(keys)


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["abnar", "runs.csv"], "runs.csv"),
        (["krajewski", "--seed", "3"], "--seed"),
        (["marin", "--router", "Hash", "--where", "k == 1"], "--where, --router"),
    ],
)
def test_what_a_paper_without_runs_has_no_use_for_is_refused_in_one_line(
    arguments: list[str], unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--paper", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"has no use for {unused}: cli.py reproduce --paper {arguments[0]}" in error


def test_printed_json_is_what_the_report_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--paper", "smalltalk", "--json", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (tmp_path / "smalltalk.json").read_text()


def test_later_papers_are_reproduced_through_public_modules_alone() -> None:
    public = {"fit", "fit.literature", "fit.papers.paper", "fit.quantities", "fit.report.record", "fit.results", "fit.runs.schema"}
    for path in Path(str(papers.__file__)).parent.glob("*.py"):
        if path.stem != "clark2022":
            tree = ast.parse(path.read_text())
            modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
            assert {module for module in modules if module.split(".")[0] == "fit"} <= public, path
