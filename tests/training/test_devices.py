"""A run takes all devices that divide its batch, and says which; a platform without devices is an answer, not a traceback."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from common.errors import InputError
from plan.request import Request
from training import devices
from training.config import DataOptions, ModelOptions, RunOptions, TrainConfig
from training.devices import all_devices, settled, unused_accelerator


def on(monkeypatch: pytest.MonkeyPatch, number: int, config: TrainConfig, *, platform: str = "gpu") -> tuple[str, list[str]]:
    """The mesh that `config` gets on so many devices, and what is said of it."""
    some: list[Any] = [SimpleNamespace(platform=platform, device_kind=f"a {platform}")] * number
    monkeypatch.setattr(devices, "all_devices", lambda: some)
    heard: list[str] = []
    return settled(config, heard.append).run.mesh, heard


def of(router: str, *, batch: int = 32, accumulate: int = 1, **model: Any) -> TrainConfig:
    """A run of the default size."""
    return TrainConfig(ModelOptions(router=router, **model), DataOptions(batch=batch, accumulate=accumulate))


@pytest.mark.parametrize(
    ("number", "config", "mesh"),
    [
        (1, of("s-base"), "data=1"),
        (8, of("dense"), "data=8"),
        (8, of("s-base"), "expert=8"),
        (16, of("s-base"), "data=2,expert=8"),
        (8, of("hash", experts=4), "data=2,expert=4"),
        # Six of eight divide 12 sequences; of two that are left of 8 in four microbatches, both are used.
        (8, of("s-base", batch=12), "data=3,expert=2"),
        (8, of("dense", batch=8, accumulate=4), "data=2"),
        # Groups of four sequences: no more than two devices.
        (8, of("s-base", batch=8, sequences_per_group=4), "expert=2"),
    ],
)
def test_a_run_takes_as_many_devices_as_divide_its_batch(
    monkeypatch: pytest.MonkeyPatch, number: int, config: TrainConfig, mesh: str
) -> None:
    found, heard = on(monkeypatch, number, config)
    assert found == mesh
    assert f"devices: {number} x a gpu; mesh {mesh}" in heard[0]
    used = RunOptions(mesh=mesh).mesh_shape()
    assert ("idle" in heard[0]) == (used["data"] * used["expert"] < number)


def test_idle_devices_are_named_with_the_batch_that_would_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _, heard = on(monkeypatch, 8, of("s-base", batch=12))
    assert heard == [
        "devices: 8 x a gpu; mesh data=3,expert=2; 2 are idle, because 6 divide a microbatch of 12 sequences: --batch 16 would use all"
    ]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="2 processes have 8 devices, which do not divide a microbatch of 12 sequences; use a batch of 16"):
        on(monkeypatch, 8, of("s-base", batch=12))


def test_on_one_cpu_nothing_is_said_and_a_mesh_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(monkeypatch, 1, of("dense"), platform="cpu") == ("data=1", [])
    given = replace(of("dense"), run=RunOptions(mesh="data=2"))
    assert on(monkeypatch, 8, given) == ("data=2", [])


def test_a_run_and_a_plan_have_one_default() -> None:
    for experts, chips in ((64, "2x2x4"), (8, "2x2x4"), (8, "4x4x4")):
        request = Request("step", experts=experts, topology=f"v5p:{chips}")
        assert request.axes == devices.default_axes(request.axes[0] * request.axes[1], experts)


def test_a_platform_without_devices_is_three_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def _none() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda': no such plugin\nand more")

    monkeypatch.setattr(jax, "devices", _none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError) as error:
        all_devices()
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "of the platform cuda: Unable to initialize backend 'cuda': no such plugin" in lines[0]
    assert "uv sync --extra cuda" in lines[1]
    assert "JAX_PLATFORMS=cpu" in lines[2]


def test_a_gpu_that_jax_does_not_see_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    line = unused_accelerator()
    assert line is not None
    assert "an NVIDIA GPU, but JAX sees only its CPU: uv sync --extra cuda" in line
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert unused_accelerator() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert unused_accelerator() is None
