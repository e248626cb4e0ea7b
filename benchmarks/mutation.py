"""Deliberate faults in the engine, the intervals and the quantities: which do the tests not notice?

    uv run --group mutation python -m benchmarks.mutation --sample 60

A random sample of cosmic-ray's mutants of the files in `benchmarks/mutation.toml` (some 9,000, of which all would take days), each tried
in a copy of the tree; the survivors are printed with their line. A killed one takes seconds, a survivor as long as its tests.
"""

import random
import shutil
import sqlite3
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import ROOT


@dataclass(frozen=True)
class Options:
    """A sample of mutants."""

    sample: int = 60
    """Mutants to try; 0 for all."""
    seed: int = 0
    """Seed of the sample."""


def sampled(session: Path, options: Options) -> int:
    """Leave a random sample of the mutants in cosmic-ray's session, at most one a line; returns how many."""
    with sqlite3.connect(session) as base:
        rows = base.execute("select job_id, module_path, start_pos_row from mutation_specs order by job_id").fetchall()
        generator = random.Random(options.seed)
        generator.shuffle(rows)
        by_line = {(path, line): job for job, path, line in rows}
        places = sorted(by_line)
        generator.shuffle(places)
        kept = {by_line[place] for place in (places[: options.sample] if options.sample else places)}
        for job, _, _ in rows:
            if job not in kept:
                base.execute("delete from mutation_specs where job_id = ?", (job,))
                base.execute("delete from work_items where job_id = ?", (job,))
    return len(kept)


def survivors(session: Path) -> list[tuple[str, int, str, int]]:
    """File, line, operator and occurrence of the mutants that no test noticed."""
    query = (
        "select s.module_path, s.start_pos_row, s.operator_name, s.occurrence from mutation_specs s "
        "join work_results r on r.job_id = s.job_id where r.test_outcome = 'SURVIVED' order by 1, 2"
    )
    with sqlite3.connect(session) as base:
        return base.execute(query).fetchall()


def main(options: Options) -> None:
    """Make the sample, try it, and print what survives."""
    with tempfile.TemporaryDirectory() as folder:
        tree, session = Path(folder) / "tree", Path(folder) / "session.sqlite"
        for name in ("common", "fit", "golden", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "cli.py", "README.md"):
            shutil.copy(ROOT / name, tree / name)
        tests = ["cosmic-ray", "baseline", "benchmarks/mutation.toml"]
        subprocess.run(tests, cwd=tree, check=True)  # the tests must pass on the tree as it is
        subprocess.run(["cosmic-ray", "init", "benchmarks/mutation.toml", str(session)], cwd=tree, check=True)
        many = sampled(session, options)
        print(f"{many} mutants", flush=True)
        subprocess.run(["cosmic-ray", "exec", "benchmarks/mutation.toml", str(session)], cwd=tree, check=True)
        found = survivors(session)
        for path, line, operator, _ in found:
            print(f"{path}:{line} {operator}: {(tree / path).read_text().splitlines()[line - 1].strip()}")
        print(f"{len(found)} of {many} survive ({len(found) / many:.0%})")


if __name__ == "__main__":
    main(tyro.cli(Options))
