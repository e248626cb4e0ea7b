"""The benchmarks run: at their smallest, since what they measure is not for a test to judge."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(name: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.usefixtures("release")
def test_coverage_is_measured_and_continued(tmp_path: Path) -> None:
    options = ("--law", "dense", "--draws", "40", "--processes", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "coverage.json"))
    _run("coverage", *options, "--reps", "2")
    first = (tmp_path / "dense-independent.jsonl").read_text()
    _run("coverage", *options, "--reps", "3")
    assert (tmp_path / "dense-independent.jsonl").read_text().startswith(first)
    found = json.loads((tmp_path / "coverage.json").read_text())
    assert found["reps"] == 3
