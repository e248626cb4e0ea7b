"""What `train` shows while it trains: on a terminal of 80 columns, and in words what is wrong with a routing."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from commands.progress import COLLAPSED, DROPPED, Verdicts, described, watching
from training.loop import Progress

METRICS = {"load_max_over_mean": 1.5, "dropped_fraction": 0.02, "dead_experts": 0.0, "entropy": 1.0}
STEP = Progress(799_900, 800_000, 11.234, 1_234_567.0, 36_610.0, METRICS, 8, None, 1e15, 0.378)


def test_the_bar_shows_step_loss_speed_and_time_left_in_80_columns() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with watching(console) as watcher:
        watcher.on_step(replace(STEP, held_out=11.1))
        watcher.on_step(STEP)
    # The last refresh: the bar, then the cursor shown again.
    shown = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", screen.getvalue()).strip().splitlines()[-1]
    for word in ("799900/800000", "loss 11.234", "1,234,567 tokens/s", "10:10:10 left", "38% MFU"):
        assert word in shown
    assert len(shown) <= 80


def test_the_first_step_which_compiles_has_no_speed() -> None:
    assert described(replace(STEP, tokens_per_second=None, seconds_left=None, utilisation=None)) == "loss 11.234"


def test_lines_without_a_terminal_say_what_an_evaluation_found(capsys: pytest.CaptureFixture[str]) -> None:
    with watching() as watcher:
        watcher.on_step(replace(STEP, step=800_000, seconds_left=0.0, held_out=1.2345))
    assert capsys.readouterr().err.splitlines() == [
        "step 800000 of 800000  loss 11.234  1,234,567 tokens/s  0:00 left  38% MFU",
        "step 800000: held-out loss 1.234; fullest expert 1.5 times its share, 2.0% of choices dropped",
    ]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"dropped_fraction": DROPPED + 0.02}, "12% of the choices since the last evaluation were dropped"),
        ({"dead_experts": 1.5}, "1.5 of 8 experts get no token"),
        ({"load_max_over_mean": 8 * (COLLAPSED + 0.1)}, "the routing has collapsed: 60% of the choices are one expert's"),
    ],
)
def test_drops_dead_experts_and_collapse_are_said_in_words_and_once(metrics: dict[str, float], words: str) -> None:
    verdicts, bad = Verdicts(), replace(STEP, metrics=METRICS | metrics)
    assert verdicts.after(bad) == []
    assert [words in line for line in verdicts.after(replace(bad, held_out=2.0))] == [False, True]
    assert len(verdicts.after(replace(bad, held_out=2.0))) == 1


def test_a_mean_over_the_steps_since_the_last_evaluation_decides() -> None:
    verdicts = Verdicts()
    verdicts.after(replace(STEP, metrics=METRICS | {"dropped_fraction": 0.5}))
    for _ in range(9):
        verdicts.after(STEP)
    found = verdicts.after(replace(STEP, held_out=2.0))
    assert found == [
        f"step {STEP.step}: held-out loss 2.000; fullest expert 1.5 times its share, {(0.5 + 10 * 0.02) / 11:.1%} of choices dropped"
    ]


def test_a_dense_model_has_no_load() -> None:
    assert Verdicts().after(replace(STEP, metrics={}, experts=1, held_out=2.0)) == [f"step {STEP.step}: held-out loss 2.000"]
