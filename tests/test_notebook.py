"""The notebook runs from top to bottom, and what stands under each cell is what that cell prints.

`python -m tests.test_notebook` runs it and writes the outputs anew.
"""

import contextlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.checks import unchecked

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
NOTEBOOK = Path(__file__).parents[1] / "docs" / "your_runs.ipynb"


def outputs(notebook: dict[str, Any]) -> list[str]:
    """What each code cell prints, run in order in a folder of its own."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found, before = list[str](), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, unchecked():
        os.chdir(folder)
        try:
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        exec(compile("".join(cell["source"]), "cell", "exec"), names)
                    found.append(printed.getvalue())
        finally:
            os.chdir(before)
    return found


def stored(notebook: dict[str, Any]) -> list[str]:
    """What stands under each code cell."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(part for output in cell["outputs"] for part in output["text"]) for cell in cells]


def test_the_notebook_prints_what_it_shows() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for shown, printed in zip(stored(notebook), outputs(notebook), strict=True):
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        # Three or four digits are printed, the last of which another processor may round otherwise.
        assert [float(x) for x in NUMBER.findall(printed)] == pytest.approx([float(x) for x in NUMBER.findall(shown)], rel=5e-3)


def _write() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(codes, outputs(notebook), strict=True), 1):
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
