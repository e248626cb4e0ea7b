"""A run's loss curve and expert loads, as text and as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from training.curves import Record
from training.folder import SAMPLE
from training.manifest import check_file
from training.records import METRICS, read_metrics
from training.restore import CHECKPOINTS, checkpoint_steps
from training.store import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SPEED = {
    "tokens_per_second": "{:,.0f} tokens/s",
    "flops_per_second": "{:.3g} model FLOP/s",
    "utilisation": "{:.0%} MFU",
}
"""How rates in the records of steps (`speed.Speed`) are shown."""


@dataclass(frozen=True)
class History:
    """The contents of a run's `metrics.jsonl`."""

    steps: list[int]
    losses: list[float]
    """Training loss of each step, nats per token."""
    metrics: list[dict[str, float]]
    """The routers' metrics of each step, means over layers; empty for a dense model."""
    evaluated: list[int]
    held_out: list[float]
    """Loss on held-out text after the steps in `evaluated`."""
    load: Float[np.ndarray, "evaluations layers experts"] | None
    """Expert loads on held-out text, relative to the mean; None for a dense model."""
    speed: dict[str, float]
    """Medians over the steps of the rates in `SPEED`; without those that are unknown."""


def history(folder: Path) -> History:
    """The run in `folder` so far. Raises `InputError` if it has no step."""
    folder = readable(folder)
    path = folder / METRICS
    if not path.is_file():
        raise InputError(
            f"{folder} has no {METRICS}, so it is not a run's folder; "
            "name one that `cli.py train` wrote"
        )
    if (folder / SAMPLE).exists():
        # Of a finished run, whose records are complete.
        check_file(folder, METRICS)
    records = read_metrics(path)
    newest = max(checkpoint_steps(folder / CHECKPOINTS), default=0)
    if records and records[-1]["step"] < newest:
        raise InputError(
            f"{path} is damaged: it ends at step {records[-1]['step']}, before the checkpoint of "
            f"step {newest}; the command that trained the run mends it if it can"
        )
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "evaluation" in record]
    if not steps:
        raise InputError(f"{path} has no steps yet; wait for the first")
    loads = [record["evaluation"]["load"] for record in evaluations]
    load = np.array(loads, float) if loads and loads[0] is not None else None
    return History(
        [record["step"] for record in steps],
        [record["loss"] for record in steps],
        [record["metrics"] for record in steps],
        [record["step"] for record in evaluations],
        [record["evaluation"]["loss"] for record in evaluations],
        None if load is None else load * load.shape[-1],
        {name: median for name in SPEED if (median := _median(steps, name)) is not None},
    )


def _median(steps: Sequence[Record], name: str) -> float | None:
    """Of the steps that have the rate. The first compiles; others may wait for a checkpoint."""
    known = [step[name] for step in steps if step.get(name) is not None]
    return float(np.median(known)) if known else None


def summary(run: History) -> str:
    """A summary in a few lines.

    Losses over time, each routed layer's largest and smallest load at the end, and the median
    step's tokens/s, model FLOP/s and, on chips with a published peak, model FLOPs utilisation.
    """
    lines = [f"{'step':>8}  {'loss':>8}  {'held-out':>8}  {'load':>6}  {'dropped':>8}"]
    held_out = dict(zip(run.evaluated, run.held_out, strict=True))
    rows = sorted({*run.evaluated, run.steps[0], run.steps[-1]} & {*run.steps})
    for step in rows:
        i = run.steps.index(step)
        metrics = run.metrics[i]
        load = (
            f"{metrics['load_max_over_mean']:6.2f}  {metrics['dropped_fraction']:8.1%}"
            if metrics
            else ""
        )
        evaluated = f"{held_out[step]:8.4f}" if step in held_out else " " * 8
        lines.append(f"{step:8d}  {run.losses[i]:8.4f}  {evaluated}  {load}".rstrip())
    if run.load is not None:
        for layer, shares in enumerate(run.load[-1]):
            lines.append(
                f"layer {layer}: "
                f"load from {shares.min():.2f} to {shares.max():.2f} times the mean, "
                f"{np.sum(shares == 0)} dead experts"
            )
    if run.speed:
        parts = [SPEED[name].format(rate) for name, rate in run.speed.items()]
        lines.append(f"median step: {', '.join(parts)}")
    return "\n".join(lines)


def figure(run: History) -> "Figure":
    """Loss by step, and each routed layer's expert loads by step; white is balanced."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

    panels = 1 if run.load is None else 1 + run.load.shape[1]
    drawing = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    axes = drawing.subplots(1, panels, squeeze=False)[0]
    axes[0].plot(run.steps, run.losses, lw=0.6, alpha=0.6, label="training")
    axes[0].plot(run.evaluated, run.held_out, "o-", ms=3, label="held out")
    axes[0].set(title="Loss", xlabel="step", ylabel="nats per token", yscale="log")
    axes[0].yaxis.set_major_locator(MaxNLocator(6))
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend()
    if run.load is not None:
        # Each evaluation's loads, from the one before it.
        edges = [run.steps[0] - 1, *run.evaluated]
        experts = np.arange(run.load.shape[2] + 1) - 0.5
        for layer, ax in enumerate(axes[1:]):
            norm = TwoSlopeNorm(1, 0, max(2, run.load.max()))
            image = ax.pcolormesh(edges, experts, run.load[:, layer].T, cmap="RdBu_r", norm=norm)
            ax.set(title=f"Load of routed layer {layer}", xlabel="step", ylabel="expert")
            ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
            drawing.colorbar(image, ax=ax, label="tokens / mean")
    return drawing
