"""The command `design`: its first screen, JSON as documented, page and figures, and requests that cannot be met."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import main
from commands.building import nearest
from commands.designing import Design
from reference.sizes import SIZES
from training.toml import read_toml

DOCUMENTED = Path(__file__).parents[2] / "docs" / "json.md"
NAMED = ("prices", "outside")


def paths(value: Any, place: str = "") -> Iterator[str]:
    """Every key, its places in lists and the names of limits and columns made alike."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = "NAME" if place.rsplit(".", 1)[-1] in NAMED else key
            yield from paths(item, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{place}[]")
    else:
        yield place


def test_the_first_screen_the_page_and_the_documented_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_page(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open_new_tab", open_page)
    arguments = ["design", "--flops", "1e21", "--memory", "8x80GB"]
    assert main([*arguments, "--out", str(tmp_path), "--open"]) == 0
    assert opened == [(tmp_path / "explorer.html").as_uri()]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 32
    assert lines[-2:] == [f"Report: {tmp_path / 'design.html'}", f"Explorer: {tmp_path / 'explorer.html'}"]
    assert any("A doubling brings, in nats, --flops: 0.039 to 0.064, --memory: 0.000 to 0.032." in line for line in lines)
    assert "2 laws agree on E of 30 to 99" in "\n".join(lines)
    joint = next(line for line in lines if line.startswith("joint"))
    assert re.search(r"692M +33\.9B +88 +1 +1 +241B +2\.2449 +E 2\.75x", joint)
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "design.html", "design.md", "design.json", "plane.svg", "frontier.svg", "joint.toml", "sparsity.toml", "granularity-E-64.toml",
        "tokens-Besiroglu.toml", "explorer.html",
    }  # fmt: skip
    record = json.loads((tmp_path / "design.json").read_text(encoding="utf-8"))
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record
    section = DOCUMENTED.read_text(encoding="utf-8").partition("## design.json")[2].partition("\n## ")[0]
    assert {*paths(record)} <= set(re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE))
    assert record["schema"] == "routelaw.design/1"
    capsys.readouterr()
    for model in record["models"]:
        # N within 3 %: widths are whole heads, depths even.
        assert abs(model["active"] / model["wanted"] - 1) < 0.03
        run = read_toml(tmp_path / f"{re.sub('[^A-Za-z0-9]', '-', model['law'])}.toml")
        # Its count is what `count` says of the configuration that was written.
        assert main(["count", "--config", str(tmp_path / f"{re.sub('[^A-Za-z0-9]', '-', model['law'])}.toml"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["models"][0]["total_parameter_count"] == model["total"]
        assert run.tokens == model["tokens"]
        # And its memory what `plan` says of it, within the limit.
        file = str(tmp_path / f"{re.sub('[^A-Za-z0-9]', '-', model['law'])}.toml")
        assert main(["plan", "--config", file, "--topology", "h100:8", "--closed-form", "--json"]) == 0
        assert 8 * json.loads(capsys.readouterr().out)[0]["memory"]["peak"] == model["memory"] <= 640e9
    joint = record["models"][-1]
    assert (joint["law"], joint["experts"], joint["k"], joint["routing_frequency"]) == ("joint", 88, 1, 1.0)
    assert joint["tokens"] == pytest.approx(record["answers"][-1]["best"]["tokens"], rel=1e-5)  # whole steps of half a million


def test_chips_hours_and_utilisation_are_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    # 16 chips of 459 teraFLOPS, 100 hours at 40 %.
    assert main(["design", "--chips", "v5p:2x2x4", "--hours", "100", "--experts", "8", "--law", "joint", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["question"]["flops"] == pytest.approx(16 * 459e12 * 3600 * 100 * 0.4, rel=1e-12)
    # Their memory is the limit where none is given.
    assert (record["question"]["memory"], record["question"]["devices"]) == (16 * 95 * 2**30, 16)
    assert record["answers"][0]["best"]["training_flops"] == pytest.approx(record["question"]["flops"], rel=1e-9)


def test_by_flops_alone_the_answer_asks_for_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", "--flops", "1e21", "--law", "joint"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "joint: no interior optimum in E by FLOPs alone; give --memory or --serve-memory." in printed
    assert "4,096" not in printed
    assert "4096" not in printed


@pytest.mark.parametrize(("text", "bytes_"), [("80GB", 8e10), ("8x80GB", 6.4e11), ("24GiB", 24 * 2.0**30), ("1.5TB", 1.5e12), ("1e9", 1e9)])
def test_memory_is_read_as_people_write_it(text: str, bytes_: float) -> None:
    asked = Design(flops="1e21", memory=text).question()
    assert asked.memory == bytes_
    assert asked.devices == (8 if text == "8x80GB" else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing says how long to train"),
        (["--flops", "many"], "--flops many: must be a number above 0"),
        (["--flops", "1e21", "--memory", "eighty"], "--memory eighty: must be bytes"),
        (["--chips", "v5p:2x2x4"], "--chips and --hours go together"),
        (["--flops", "1e21", "--law", "cubic"], "no published law is called 'cubic'"),
        (["--flops", "1e21", "--experts", "8", "--max-experts", "4"], "lift it 2 times"),
        (["--flops", "1e18", "--loss", "2", "--law", "joint"], "lift --flops"),
        (["--flops", "1e21", "--open"], "--out design --open"),
        (["absent.csv", "--flops", "1e18"], "absent.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_met_is_three_lines_at_most(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert words in "\n".join(lines)


@pytest.mark.parametrize("n", [3e5, 1.2e6, 2.5e7, 3.7e8, 1.3e9, 7e9, 1e11])
def test_the_nearest_shape_is_within_five_per_cent_and_no_ribbon(n: float) -> None:
    size = nearest(n)
    assert abs(size.num_blocks * (13 * size.d_model**2 + 4 * size.d_model) / n - 1) < 0.05
    assert 16 <= size.d_model / size.num_blocks <= 160
    assert size.num_heads * size.kqv_size == size.d_model


def test_a_shape_is_a_size_of_count_plan_and_train(capsys: pytest.CaptureFixture[str]) -> None:
    size = SIZES["15M"]
    shape = ["--d-model", "512", "--num-blocks", "6", "--num-heads", "8", "--kqv-size", "32"]
    counts: list[Any] = []
    for arguments in (["--size", "15M"], shape, ["--size", f"{size.d_model}x{size.num_blocks}x{size.num_heads}x{size.kqv_size}"]):
        assert main(["count", *arguments, "--router", "s-base", "--json"]) == 0
        counts.append({**json.loads(capsys.readouterr().out)["models"][0], "model": ""})
    assert counts[0] == counts[1] == counts[2]
    assert main(["plan", *shape, "--topology", "h100:8", "--closed-form"]) == 0
    assert "512x6x8x32 s-base E=64" in capsys.readouterr().out
    assert main(["train", *shape[:6], "--recipe", "small", "--print-config"]) == 0
    assert 'size = "512x6x8x64"' in capsys.readouterr().out
    assert main(["train", "--d-model", "64", "--print-config"]) == 2
    assert "--d-model 512 --num-blocks 6 --num-heads 8" in capsys.readouterr().err


def test_a_model_to_build_fits_devices_that_do_not_divide_the_recipes_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", "--flops", "1e21", "--memory", "48x16GB", "--law", "sparsity,joint", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["models"]) == 2
    for model in record["models"]:
        assert "batch = 288\n" in model["config"]
        assert model["memory"] <= 48 * 16e9
        # Fewer experts than the design's may be built, where its own would not fit as they divide over the devices.
        best = next(one["best"] for one in record["answers"] if one["law"] == model["law"])
        assert 0.75 * best["experts"] <= model["experts"] <= best["experts"]
        assert model["active"] == pytest.approx(model["wanted"], rel=0.03)
