"""Layouts in which people publish runs, each read to its law's coefficients with the fewest options. A test without options says so."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from fit.runs import load_runs
from fit.runs.headers import parse_columns
from tests.fit.runs.layouts import (
    DENSE_FLOOR,
    EXPERTS,
    HOFFMANN,
    S_BASE,
    SIZES,
    assert_law,
    dense_runs,
    loss_of_size,
    routed_runs,
    table,
)
from tests.fit.runs.samples import codes

Write = Callable[..., Path]


def test_points_of_hoffmann_with_their_flops_need_no_option(write: Write) -> None:
    rows = [
        {"Model Size": r["N"], "Training Tokens": r["D"], "Training FLOP": 6 * r["N"] * r["D"], "loss": r["loss"]} for r in dense_runs()
    ]
    runs = load_runs(write(table(rows)))
    assert_law("tokens", HOFFMANN, runs)
    assert runs.log[0].rule == "columns: N = Model Size, D = Training Tokens, C = Training FLOP, loss = loss (nats per token)"
    assert codes(runs) == []


def test_points_extracted_from_a_figure_need_their_tokens_from_the_flops(write: Write) -> None:
    rows = [
        {"": i, "svg_x": 10.5 + i, "Model Size (N)": r["N"], "Training FLOP (C)": 6 * r["N"] * r["D"], "Loss": r["loss"]}
        for i, r in enumerate(dense_runs())
    ]
    path = write(table(rows))
    assert "no-tokens" in codes(load_runs(path))
    assert_law("tokens", HOFFMANN, load_runs(path, columns=parse_columns("D=Training FLOP (C)/(6*N)")))


def test_isoflop_sets_need_no_option(write: Write) -> None:
    rows = [{"flops": 6 * r["N"] * r["D"], "params": r["N"], "tokens": r["D"], "loss": r["loss"]} for r in dense_runs()]
    runs = load_runs(write(table(rows, "\t"), "isoflop.tsv"))
    assert_law("tokens", HOFFMANN, runs)
    assert runs["C"].tolist() == [row["flops"] for row in rows]


def test_a_table_of_runs_from_wandb_needs_no_option(write: Write) -> None:
    rows = [
        {
            "Name": f'"dense, {i}"', "State": "finished", "config.n_params": int(r["N"]), "config.train.tokens": int(r["D"]),
            "_step": int(r["D"] / 5e5), "summary.val/loss": r["loss"], "Created": '"2026-01-02T03:04:05.000Z"',
        }
        for i, r in enumerate(dense_runs())
    ]  # fmt: skip
    crashed = {**rows[0], "Name": "crash", "State": "crashed", "summary.val/loss": ""}
    runs = load_runs(write(table([crashed, *rows])))
    assert_law("tokens", HOFFMANN, runs)
    assert runs.log[-1].reasons[0] == "1 run: summary.val/loss is empty in every evaluation"


def test_a_ladder_in_json_keyed_by_model_needs_no_option(write: Write) -> None:
    ladder = {
        f"{r['N'] / 1e6:g}M-{r['D'] / 1e9:g}B": {"n": r["N"], "d": r["D"], "eval/c4_en/CrossEntropyLoss": r["loss"]} for r in dense_runs()
    }
    runs = load_runs(write(json.dumps(ladder, indent=2), "ladder.json"))
    assert_law("tokens", HOFFMANN, runs)
    assert runs.target == "eval/c4_en/CrossEntropyLoss"


def test_ablations_of_experts_in_nested_json_lines_need_no_option(write: Write) -> None:
    records = [
        {
            "config": {"model": {"active_params": r["N"], "num_experts": r["E"], "top_k": 8 if r["E"] > 1 else 1}, "lr": 1e-3},
            "metrics": {"train/z_loss": 0.01, "eval": {"loss": r["loss"]}},
        }
        for r in routed_runs()
    ]
    runs = load_runs(write("\n".join(map(json.dumps, records)), "olmoe.jsonl"))
    assert_law("bilinear", S_BASE, runs, "all")


def test_a_sweep_over_mixtures_needs_to_know_which_columns_name_a_run(write: Write) -> None:
    rows = [
        {"size": f"{n / 1e6:g}M", "mixture": mixture, "seed": 1, "iter": step, "val_loss": loss_of_size(n) + worse + 100 / step}
        for n, (mixture, worse), step in product(SIZES, [("web", 0.0), ("code", 0.5)], [100, 1000, 10**9])
    ]
    path = write(table(rows, ";"), "sweep.csv")
    runs = load_runs(path, columns=parse_columns("run=size+mixture+seed"), where="mixture == 'web'")
    assert len(runs) == len(SIZES)
    # At the last step the curve is 1e-7 above its end, which is within the tolerance.
    assert_law("dense-floor", DENSE_FLOOR, runs)


def test_repeated_data_need_only_a_filter_for_the_law_of_single_epochs(write: Write) -> None:
    rows = [
        {
            "params": r["N"],
            "tokens": r["D"] * epochs,
            "unique_tokens": r["D"],
            "epochs": epochs,
            "final_loss": r["loss"] + 0.1 * (epochs - 1),
        }
        for r, epochs in product(dense_runs(), [1, 4])
    ]
    path = write(table(rows))
    assert load_runs(path)["U"].tolist() == [row["unique_tokens"] for row in rows]
    assert_law("tokens", HOFFMANN, load_runs(path, where="epochs == 1"))


def test_a_sweep_of_experts_with_active_and_total_parameters_needs_no_option(write: Write) -> None:
    rows = [
        {"Active Params (M)": r["N"] / 1e6, "Total Params (B)": r["N"] * r["E"] / 1e9, "Num Experts": r["E"], "Val Loss": r["loss"]}
        for r in routed_runs()
    ]
    runs = load_runs(write(table(rows)))
    assert_law("bilinear", S_BASE, runs, "all")
    np.testing.assert_allclose(runs["P"], runs["N"] * runs["E"], rtol=1e-12)  # one rounding at each division and product


def test_a_table_of_perplexities_in_millions_needs_no_option(write: Write) -> None:
    rows = [
        {"Model": f"base-{i}", "Params": f"{r['N'] / 1e6:,} M", "Tokens": f"{r['D'] / 1e9} billion", "Test PPL": float(np.exp(r["loss"]))}
        for i, r in enumerate(dense_runs())
    ]
    runs = load_runs(write(table(rows, "|")))
    assert_law("tokens", HOFFMANN, runs)
    assert runs.log[0].rule == "columns: N = Params, D = Tokens, loss = ln(Test PPL) (nats per token)"


def test_a_folder_of_logs_needs_a_pattern_for_the_names_and_that_each_file_is_a_run(tmp_path: Path) -> None:
    for n, e in product(SIZES, EXPERTS):
        (final,) = [r["loss"] for r in routed_runs() if (r["N"], r["E"]) == (n, e)]
        log = [{"step": step, "train_loss": final + 1} for step in (10, 20, 30)]
        log += [{"step": step, "val_loss": final + (30 - step) / 10} for step in (10, 20, 30)]
        (tmp_path / f"N{n / 1e6:g}M_E{e}.jsonl").write_text("\n".join(map(json.dumps, log)))
    runs = load_runs(tmp_path, filename="N{N}_E{E}.jsonl", columns={"run": "@file"})
    assert len(runs) == len(SIZES) * len(EXPERTS)
    assert_law("bilinear", S_BASE, runs, "all")


def test_a_grid_over_learning_rates_needs_the_columns_of_its_cells(write: Write) -> None:
    rows = [
        {"params": r["N"], "tokens": r["D"], "lr": lr, "loss": r["loss"] + worse}
        for r, (lr, worse) in product(dense_runs(), [(1e-3, 0.2), (3e-4, 0.0), (1e-4, 0.1)])
    ]
    runs = load_runs(write(table(rows)), best_of=("N", "D"))
    assert_law("tokens", HOFFMANN, runs)
    assert runs.log[-1].reasons == ("40 runs with a higher loss in their cell, of 20 cells",)
