"""docs/your_runs.md: every command of the page reads the file it is about."""

import json
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tyro

from cli import COMMANDS
from fit.laws import CATALOGUE
from fit.runs import load_runs
from tests.fit.runs.layouts import EXPERTS, SIZES, dense_runs, loss_of_size, routed_runs, table

PAGE = (Path(__file__).parents[3] / "docs" / "your_runs.md").read_text()
BLOCKS = re.findall(r"^ {4}(python cli\.py fit .*)$", PAGE, re.MULTILINE)
OPTIONS = re.findall(r"`(--[^`]+)`", PAGE.partition("## Layouts")[2].partition("\n\n    ")[0])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names, in which commands run."""
    dense = dense_runs()
    whole: list[dict[str, Any]] = [
        {
            "active params": r["N"], "million_params": r["N"] / 1e6, "tokens": r["D"], "flops": 6 * r["N"] * r["D"], "test loss": r["loss"],
            "score": r["loss"], "data.mix": "web", "seed": i, "status": "ok", "step": 10_000,
        }
        for i, r in enumerate(dense)
    ]  # fmt: skip
    (tmp_path / "runs.csv").write_text(table(whole))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text(table([dict(r) for r in dense]))
    (tmp_path / "first.csv").write_text(table([dict(r) for r in dense]))
    (tmp_path / "second.jsonl.gz").write_text("\n".join(map(json.dumps, dense)))
    flops = [{"params": r["N"], "train_flops": 6 * r["N"] * r["D"], "loss": r["loss"]} for r in dense]
    (tmp_path / "flops.csv").write_text(table(flops))
    sweep = [
        {"size": n, "mixture": m, "seed": 1, "step": s, "loss": loss_of_size(n) + 1 / s}
        for n, m, s in product(SIZES, ["web", "code"], [1, 2])
    ]
    (tmp_path / "sweep.csv").write_text(table(sweep))
    (tmp_path / "grid.csv").write_text(table([{**r, "lr": lr, "loss": r["loss"] + lr} for r, lr in product(dense, [0.1, 0.2])]))
    (tmp_path / "logs").mkdir()
    for r in routed_runs():
        log = [{"step": s, "n": r["N"], "val_loss": r["loss"] + 1 / s} for s in (1, 2)]
        (tmp_path / "logs" / f"N{r['N'] / 1e6:g}M_E{r['E']:g}.jsonl").write_text("\n".join(map(json.dumps, log)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXPECTED = {
    "first.csv second.jsonl.gz": 40, "logs": len(SIZES) * len(EXPERTS), "sweep.csv": len(SIZES), "flops.csv": 20, "grid.csv": 20,
    "runs.csv": 20, "tables": 20,
}  # fmt: skip


def _loaded(command: str) -> int:
    """How many runs a command of the page loads."""
    arguments = shlex.split(command)[2:]
    fitting: Any = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments)
    assert set(fitting.law) <= set(CATALOGUE)
    return len(fitting.runs.load())


@pytest.mark.parametrize("command", BLOCKS)
@pytest.mark.usefixtures("files")
def test_a_command_of_the_page_reads_its_file(command: str) -> None:
    wanted = next(runs for name, runs in EXPECTED.items() if name in command)
    assert _loaded(command) == wanted


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.usefixtures("files")
def test_an_option_of_the_table_of_layouts_is_one(option: str) -> None:
    name = "logs/" if "file" in option else "flops.csv" if "train_flops" in option else "sweep.csv" if "mixture" in option else "runs.csv"
    assert _loaded(f"python cli.py fit {name} {option}") in (20, 10)


@pytest.mark.usefixtures("files")
def test_the_python_of_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown: list[tuple[Any, ...]] = []
    exec(code, {"print": lambda *values: shown.append(values)})
    assert [rule for rule, _, _ in shown] == [
        step.rule for step in load_runs("runs.csv", columns={"N": "million_params*1e6"}, where="status == 'ok'").log
    ]
