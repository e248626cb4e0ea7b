"""Each command end to end, as a user runs it, and what it says to a user who is wrong."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli import main
from golden import simulated_curves, small_curves
from tests.checks import unchecked

ROOT = Path(__file__).parents[1]


@unchecked()
def test_a_bare_fit_works_on_runs_that_were_really_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--draws", "40"]) == 0
    printed = capsys.readouterr().out
    assert "simulated" not in printed
    assert "predicts held-out sizes best" in " ".join(printed.split())
    assert len(printed.splitlines()) <= 30


def test_simulated_runs_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(simulated_curves()), "--draws", "0", "--law", "separable"]) == 0
    assert "simulated" in capsys.readouterr().out.splitlines()[0]


def test_full_prints_what_the_first_screen_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--draws", "0", "--law", "floor", "--full"]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("Standard errors and correlations", "Warnings in full", "Which runs", "Made from"))
    assert max(map(len, printed.splitlines())) <= 80


@unchecked()
def test_json_is_all_that_is_printed_and_is_the_file_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--draws", "40", "--law", "separable,bounded", "--router", "Hash", "--out", str(tmp_path / "report"), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "report" / "fit.json").read_text())
    assert [(f["router"], f["law"]) for f in printed["fits"]] == [("Hash", "separable"), ("Hash", "bounded")]


def test_fixed_parameters_weights_scheme_and_points_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = small_curves().read_text().splitlines()
    weighted = tmp_path / "weighted.csv"
    weighted.write_text("\n".join([rows[0] + ",weight", *(f"{row},{1 + k % 2}" for k, row in enumerate(rows[1:]))]))
    arguments = ["fit", str(weighted), "--router", "Hash", "--law", "floor", "--fix", "L_0=0.9,b=0.1", "--weights", "weight"]
    assert main([*arguments, "--scheme", "pairs", "--draws", "60", "--at", "1M:32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fit = found["fits"][0]
    assert (fit["coefficients"]["L_0"]["value"], fit["coefficients"]["b"]["value"]) == (0.9, 0.1)
    assert fit["draws"]["scheme"] == "pairs"
    assert "epc(1M/E=32)" in fit["derived"]
    assert (found["provenance"]["weights"], found["provenance"]["fixed"]) == ("weight", {"L_0": 0.9, "b": 0.1})


def test_help_lists_the_laws_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    from fit.laws import CATALOGUE

    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for law in CATALOGUE.values():
        assert any(f"{law.name}: {law.formula}" in line for line in lines)


def strange_headers(folder: Path, text: str) -> str:
    path = folder / "own.csv"
    path.write_text(text)
    return str(path)


def test_headers_that_are_not_ours_are_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, experts = (1e6, 3e6, 1e7, 3e7), (1, 4, 16)
    rows = [f"{n:.0f},{e},{1.5 + 30 * n**-0.3 * e**-0.1:.6f}" for n in sizes for e in experts]
    path = strange_headers(tmp_path, "\n".join(["params,experts,val_loss", *rows]))
    assert main(["fit", path, "--draws", "0", "--law", "separable"]) == 0
    printed = capsys.readouterr().out
    assert "loss_validation" not in printed
    assert "val_loss" in printed.splitlines()[0]


def test_two_headers_that_could_be_one_column_get_the_option_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n:.0f},{2 * n:.0f},{1.5 + 30 * n**-0.3:.6f}" for n in (1e6, 3e6, 1e7, 3e7)]
    command = ["fit", strange_headers(tmp_path, "\n".join(["n_params,params,val_loss", *rows])), "--draws", "0"]
    assert main(command) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "'n_params' and 'params' could each be N" in first
    assert main([*command, *second.rsplit("such as ", 1)[1].split()]) == 0


def test_runs_without_a_column_of_experts_are_dense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{1.6 + 40 * n**-0.3:.6f}" for n in (1e6, 3e6, 1e7, 3e7, 1e8)]
    path = strange_headers(tmp_path, "\n".join(["size,loss", *rows]))
    assert main(["fit", path, "--target", "loss", "--columns", "N=size", "--law", "dense-floor", "--draws", "0"]) == 0
    assert "Dense runs, L = L_0 + C N^-a" in capsys.readouterr().out


def test_the_same_command_twice_writes_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        assert main(["fit", "--draws", "30", "--law", "dense", "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in ("one", "two")
    )
    assert len(first) > 5
    assert first == second


def test_runs_come_from_standard_input_as_well() -> None:
    arguments = [sys.executable, "cli.py", "fit", "-", "--law", "separable", "--router", "S-Base", "--draws", "0", "--json"]
    done = subprocess.run(arguments, cwd=ROOT, input=small_curves().read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout)["fits"][0]["runs"] == 46


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "absent.csv"], "absent.csv"),
        (["fit", str(ROOT)], "a folder without tables of runs"),
        (["fit", "--law", "cubic"], "no law is called 'cubic'"),
        (["fit", "--router", "Switch"], "S-Base, Hash, RL-R"),
        (["fit", "--target", "loss_mars"], "loss_mars"),
        (["fit", "--step", "7"], "7"),
        (["fit", "--where", "__import__('os')"], "__import__"),
        (["fit", "--where", "seed == 41"], "seed"),
        (["fit", "--columns", "loss"], "loss"),
        (["fit", "--loss", "huber:0"], "--loss"),
        (["fit", "--at", "big:64"], "--at big:64"),
        (["fit", "--at", "1M:64:2"], "--at 1M:64:2"),
        (["fit", "--at", "N=1M,N=2M"], "--at N=1M,N=2M"),
        (["fit", "--fix", "c"], "--fix c"),
        (["fit", "--weights", "absent"], "absent"),
        (["fit", "--draws", "-1"], "draws"),
        (["fit", "--level", "95"], "level"),
        (["fit", "--where", "num_experts == 1", "--law", "bounded"], "all dense"),
        (["fit", "--published", "floor"], "no published coefficients; those with some are dense, tokens"),
        (["fit", "--published", "tokens:Kaplan"], "no published row 'Kaplan'"),
        (["fit", "--published", "joint", "--at", "N=1e9"], "joint reads N, D, E"),
        (["fit", "--published", "joint", "--law", "joint"], "has no use for --law"),
        (["fit", "runs.csv", "--published", "joint", "--fix", "a=1", "--draws", "9"], "has no use for runs.csv, --fix, --draws"),
        (["fit", "--at", "P=1e9,S=1"], "S = 1 - k/E"),
    ],
    ids=lambda value: " ".join(value[1:]).replace(str(ROOT), "FOLDER") if isinstance(value, list) else "",
)
def test_a_wrong_request_is_three_lines_at_most_and_code_2_and_writes_nothing(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "report")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") <= 3
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written_is_one_line_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["fit", "--draws", "0", "--law", "dense", "--out", str(tmp_path / "taken")]) == 1
    # Before it, on a slow machine, a line that says how far the work is.
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] != []


def test_an_output_that_is_no_longer_read_is_no_failure() -> None:
    command = f"{sys.executable} cli.py fit --draws 0 --law separable | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert "error" not in done.stderr


def test_help_imports_no_numerics() -> None:
    code = (
        "import sys, cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'scipy', 'matplotlib', 'jax', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_fit_imports_no_plotting() -> None:
    code = (
        "import sys, cli\ncli.main(['fit', '--draws', '20', '--law', 'separable'])\n"
        "print(sorted({'matplotlib', 'pandas', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_fetch_says_in_one_line_where_it_cannot_put_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_count_prints_the_released_integers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "--size", "370M", "--router", "s-base", "--experts", "64", "--k", "1", "--routing-frequency", "0.5"]) == 0
    printed = capsys.readouterr().out
    # Of the release's runs of this setting (tests/reference/released_counts.csv).
    assert all(text in printed for text in ("368,123,904", "7,503,224,832", "557,394,413,223,936", "368M", "7.50B", "557T"))


def test_count_takes_lists_and_gives_every_combination_once(capsys: pytest.CaptureFixture[str]) -> None:
    lists = [
        "--size",
        "15M,25M",
        "--router",
        "dense,hash",
        "--experts",
        "8",
        "--experts",
        "64",
        "--k",
        "1,2",
        "--routing-frequency",
        "1/2,1",
    ]
    assert main(["count", *lists, "--json"]) == 0
    models = [model["model"] for model in json.loads(capsys.readouterr().out)["models"]]
    assert len(models) == len(set(models)) == 2 * (1 + 2 * 2 * 2)
    assert models[:3] == ["15M dense", "15M hash E=8", "15M hash E=8 R=1"]


def test_count_without_a_size_counts_the_papers_dense_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "--json"]) == 0
    models = {model["model"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert len(models) == 8
    assert models["1.3B dense"]["dense_parameter_count"] == models["1.3B dense"]["total_parameter_count"] == 1_308_819_456
    assert models["1.3B dense"]["flops_per_token"] == sum(models["1.3B dense"]["flops"].values()) == 3_355_148_288


def test_count_fits_80_columns_and_imports_no_plotting() -> None:
    code = "import sys, cli\ncli.main(['count'])\nprint(sorted({'scipy', 'matplotlib', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "3B"], "no size is called '3B'; there are 7K"),
        (["--router", "base"], "no router is called 'base'; there are dense, s-base"),
        (["--experts", "8"], "--router s-base"),
        (["--router", "hash", "--experts", "many"], "--experts many: must be a whole number"),
        (["--router", "hash", "--experts", "4", "--k", "8"], "k is 8 with 4 experts"),
        (["--router", "hash", "--routing-frequency", "1/0"], "routing_frequency is '1/0'"),
        (["--size", "15M", "--router", "hash", "--routing-frequency", "1/5"], "a divisor of 6)"),
        (["--batch", "0"], "--batch 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_model_that_cannot_be_is_one_line_and_code_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert words in said.err


def test_train_writes_curves_that_fit_reads_and_does_nothing_when_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"document {i} " * 20}) + "\n" for i in range(60)))
    arguments = ["train", "--corpus", str(corpus), "--size", "27K", "--context", "16", "--batch", "4", "--experts", "2", "--steps", "6"]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["step"] == 6
    assert main([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["loss_validation"] == first["loss_validation"]
    from fit.runs import load_runs

    (loss,) = load_runs([str(tmp_path / "run" / "curves.csv")]).loss
    assert loss == first["loss_validation"]
    assert main([*arguments, "--seed", "1", "--out", str(tmp_path / "run")]) == 2
    assert "run.seed: 0 -> 1" in capsys.readouterr().err
    caplog.clear()
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    # The same text in the same batches, summed by another program: float32 rounding.
    assert json.loads(capsys.readouterr().out)["nats_per_token"] == pytest.approx(first["loss_validation"], rel=1e-5)
    assert main(["sample", str(tmp_path / "run"), "--prompt", "document", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("document")
    # Whoever only reads a run is told nothing of how checkpoints are best written.
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_runs_config_is_repeated_whole(tmp_path: Path) -> None:
    from commands.training import Train
    from tests.training.tiny_runs import every_field_changed
    from training.toml import to_toml

    config = every_field_changed()
    assert config.optimizer.warmup_steps > config.run.steps // 10
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert Train(config=tmp_path / "config.toml").options() == config
    assert Train(config=tmp_path / "config.toml", seed=3).options() == replace(config, run=replace(config.run, seed=3))
    shorter = Train(config=tmp_path / "config.toml", steps=400).options().optimizer
    assert shorter == replace(config.optimizer, steps=400, warmup_steps=40)


def test_a_size_of_the_paper_needs_a_recipe_and_both_commands_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    from commands.training import Train
    from training.config import paper_recipe, small_recipe

    assert main(["train", "--size", "1.3B", "--experts", "64"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert all(f"cli.py train --size 1.3B --recipe {recipe}" in said for recipe in ("paper", "small"))
    assert Train(size="1.3B", recipe="paper", experts=64).options() == paper_recipe("1.3B", "s-base", 64)
    assert Train(size="1.3B", recipe="small").options() == small_recipe("1.3B")
    shorter = Train(size="15M", recipe="paper", steps=10_000).options()
    assert (shorter.optimizer.steps, shorter.optimizer.warmup_steps) == (10_000, 1000)
    assert main(["train", "--config", "some.toml", "--recipe", "paper"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_accumulation_rematerialisation_and_the_capacity_of_evaluation_are_options() -> None:
    from commands.training import Train

    config = Train(accumulate=4, remat="full", evaluation_capacity_factor=2.0).options()
    router = config.model_config(257).router
    assert router is not None
    assert (config.data.accumulate, config.model_config(257).remat, router.evaluation_capacity_factor) == (4, "full", 2.0)
    default = Train().options().model_config(257)
    assert default.router is not None
    assert (default.remat, default.router.evaluation_capacity_factor) == ("none", None)


def test_tokenize_writes_shards_that_train_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus, shards, run = tmp_path / "corpus.jsonl", tmp_path / "shards", tmp_path / "run"
    corpus.write_text("".join(json.dumps({"text": f"document {i} " * 20}) + "\n" for i in range(60)))
    assert main(["tokenize", str(corpus), str(shards), "--tokenizer", "bpe:300"]) == 0
    assert "training" in capsys.readouterr().out
    arguments = ["--corpus", str(shards), "--size", "27K", "--router", "hash", "--context", "16", "--batch", "4", "--steps", "3"]
    assert main(["train", *arguments, "--out", str(run)]) == 0
    assert main(["show", str(run), "--out", str(tmp_path / "run.svg")]) == 0
    assert "dead experts" in capsys.readouterr().out
    assert (tmp_path / "run.svg").read_text().startswith("<?xml")
    # Of shards the held-out split is evaluated: the run's own.
    assert main(["eval", str(run)]) == main(["eval", str(run), "--corpus", str(shards)]) == 0
    own, given = capsys.readouterr().out.splitlines()
    assert own == given
    assert re.search(r"bits per byte, on (\d+) of \1 tokens$", own)
    assert 'tokenizer = "bpe:300"' in (run / "config.toml").read_text()
    assert main(["tokenize", str(corpus), str(shards)]) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_published_laws_predict_without_a_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = ("--at", "N=5.71e9,E=1,D=2.919e10", "--at", "P=1.84e9,S=0.75,D=3.623e10")
    assert main(["fit", "--published", "joint,sparsity", *points, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    # Both papers' printed optima, at 1e21 and 1e20 FLOPs (rounded N and D: four digits).
    values = {row["law"]: row["value"] for row in record["predictions"]}
    assert values == pytest.approx({"joint": 2.3502, "sparsity": 2.4368}, abs=2e-4)
    assert main(["fit", "--published", "all", *points, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "N 2.1 times" in text  # joint's runs end at 2.7B active parameters
    assert len(text.splitlines()) <= 60
    assert (tmp_path / "published.html").exists()


def test_columns_that_follow_from_others_are_derived_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["experts,top_k,total_params,tokens,val_loss"]
    for i, (experts, k) in enumerate(((1, 1), (8, 1), (8, 2), (64, 2))):
        for size in (1e8, 1e9, 1e10):
            runs += [
                f"{experts},{k},{size},{tokens},{2 + (size / 1e8) ** -0.3 + (tokens / 1e9) ** -0.3 + 0.1 * i}" for tokens in (1e9, 9e9)
            ]
    (tmp_path / "runs.csv").write_text("\n".join(runs), encoding="utf-8")
    assert main(["fit", str(tmp_path / "runs.csv"), "--law", "sparsity-dense", "--draws", "0", "--full"]) == 0
    assert "no column activation_ratio: A = k/E" in " ".join(capsys.readouterr().out.split())
