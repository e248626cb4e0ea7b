"""How the tests of later papers ask for one: through the command, as a user does, with a report."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import main


@dataclass(frozen=True)
class Reproduced:
    """What `cli.py reproduce --paper NAME --out DIR` gave: its JSON, the report's Markdown and the first screen."""

    record: dict[str, Any]
    markdown: str
    screen: str

    @property
    def verdicts(self) -> list[str]:
        """Of its statements, in order."""
        return [one["verdict"] for one in self.record["statements"]]

    def why(self, number: int) -> str:
        """What decides a statement, counted from 1."""
        return self.record["statements"][number - 1]["why"]

    def figure(self, name: str, at: str) -> dict[str, Any]:
        """The first figure of this name and place."""
        return next(one for one in self.record["figures"] if (one["name"], one["at"]) == (name, at))


def reproduced(paper: str, folder: Path, *options: str) -> Reproduced:
    """Run the command. Its first screen must fit: 30 lines of 80 columns, but for the line that names the report."""
    with redirect_stdout(io.StringIO()) as shown:
        assert main(["reproduce", "--paper", paper, "--out", str(folder), *options]) == 0
    lines = shown.getvalue().splitlines()
    assert lines.pop() == f"Report: {folder / paper}.html"
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    return Reproduced(json.loads((folder / f"{paper}.json").read_text()), (folder / f"{paper}.md").read_text(), shown.getvalue())
