"""What a run records of its speed, and the trace of some of its steps."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import jax
import pytest

from common.errors import InputError
from plan.chips import CHIPS, chip_of
from reference.count import flops_per_token
from tests.reference.small_models import CONTEXT, small
from tests.training.tiny_runs import Quiet, tiny, write_corpus
from training.profile import PROFILE, Steps, parse_steps
from training.run import train
from training.show import history, summary
from training.speed import Meter, Speed, memory_bytes


def test_utilisation_is_model_flops_over_the_peak_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    config, flops = small("dense"), 3 * flops_per_token(small("dense")).total
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")])
    meter = Meter(config, 10, 8)
    first = meter.step(None, 3)
    assert (first.tokens_per_second, first.flops_per_second, first.utilisation, first.seconds_left) == (None,) * 4
    assert meter.mean == Speed()
    tokens = 10 * CONTEXT
    second, third = meter.step(0.5, 2), meter.step(1.5, 1)
    # Of one step; the time left is by the mean, of a second.
    assert second.tokens_per_second == tokens / 0.5
    assert second.flops_per_second == flops * tokens / 0.5
    assert second.utilisation == pytest.approx(flops * tokens / 0.5 / (8 * 989.5e12))
    assert (second.seconds_left, third.seconds_left) == (1.0, 1.0)
    assert meter.mean.utilisation == pytest.approx(flops * tokens / (8 * 989.5e12))


def test_a_chip_without_a_published_peak_has_no_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chip_of("cpu") is None
    assert chip_of("TPU v5 lite") == CHIPS["v5e"]
    assert Meter(small("dense"), 10, 1).step(1.0, 0).utilisation is None
    resident = memory_bytes()
    # Of this process: JAX alone takes tens of megabytes; the machine has no terabyte.
    assert resident is not None
    assert 2**25 < resident < 2**40
    stats = SimpleNamespace(platform="gpu", memory_stats=lambda: {"peak_bytes_in_use": 123})
    monkeypatch.setattr(jax, "local_devices", lambda: [stats])
    assert memory_bytes() == 123


def test_a_run_records_its_speed_and_traces_the_steps_asked_for(tmp_path: Path) -> None:
    config = tiny(write_corpus(tmp_path / "corpus"), router="dense", steps=4, test=0.0, also="")
    train(config, tmp_path / "run", Quiet(), tmp_path / "cache", profile=Steps(2, 3))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    second = next(line for line in lines if line["step"] == 2 and "loss" in line)
    ratio = second["flops_per_second"] / second["tokens_per_second"]
    assert ratio == pytest.approx(3 * flops_per_token(config.model_config(257)).total)
    assert second["utilisation"] is None
    assert second["memory_bytes"] > 2**25
    shown = history(tmp_path / "run")
    speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    assert shown.speed == {"tokens_per_second": median(speeds), "flops_per_second": pytest.approx(median(speeds) * ratio)}
    on_chip = replace(shown, speed={"tokens_per_second": 12345.6, "flops_per_second": 1.5e14, "utilisation": 0.381})
    assert summary(on_chip).splitlines()[-1] == "median step: 12,346 tokens/s, 1.5e+14 model FLOP/s, 38% MFU"
    (trace,) = (tmp_path / "run" / PROFILE).rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))
    names = [event.get("name", "") for event in events["traceEvents"]]
    # The step's program is in it twice for each step: of two steps, not of four.
    assert 2 <= sum(name.startswith("PjitFunction(_step") for name in names) <= 4


@pytest.mark.parametrize("text", ["", "3", "0:2", "4:3", "a:b", "1:2:3"])
def test_steps_to_profile_that_make_no_sense_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match="give the first and the last step, such as 20:22"):
        parse_steps(text)
    assert parse_steps("20:22") == Steps(20, 22)
