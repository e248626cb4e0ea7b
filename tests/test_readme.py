"""The README's examples run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest

from fit.engine.solve import fit_law
from fit.laws import BILINEAR
from fit.runs import canonical, load_runs

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def _run(words: str) -> dict[str, Any]:
    (block,) = [block for block in BLOCKS if words in block]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_python_example_prints_a_line_per_fit_and_a_prediction(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "curves.csv.gz").symlink_to(release)
    monkeypatch.chdir(tmp_path)
    _run("load_runs")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["S-Base"] * 2 + ["Hash"] * 2 + ["RL-R"] * 2
    assert all(line.endswith("True") for line in lines[:6])
    assert "status" in "".join(lines[6:])


def test_the_example_law_explains_what_the_readme_says_it_does(release: Path) -> None:
    runs = canonical(load_runs(release), "S-Base")
    data, loss = {name: runs.numeric(name) for name in BILINEAR.columns}, runs.loss
    curved = fit_law(_run("CURVED")["CURVED"], data, loss)
    # It is nested around Eq. 7, so it cannot be worse; the README claims that curvature is most of what is left.
    assert curved.rmse_log10**2 < 0.5 * fit_law(BILINEAR, data, loss).rmse_log10 ** 2


def test_the_model_example_prints_where_the_tokens_of_each_layer_went(capsys: pytest.CaptureFixture[str]) -> None:
    names = _run("Transformer")
    first, *layers = capsys.readouterr().out.splitlines()
    assert first.startswith("loss ")
    assert [line.split(":")[0] for line in layers] == ["layer 0", "layer 1"]
    for line in layers:
        percent = [int(word) for word in line.partition(":")[2].partition("dropped")[0].split()]
        # Eight whole numbers, each rounded by at most a half.
        assert len(percent) == names["config"].router.num_experts
        assert abs(sum(percent) - 100) <= 4
    (block,) = [block for block in BLOCKS if "Transformer" in block]
    assert len(block.splitlines()) <= 20
