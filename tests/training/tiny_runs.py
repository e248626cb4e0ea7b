"""Runs small enough to be started again and again: their text, their options, and processes that train them."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reference.routers import ROUTERS
from tests.checks import HANG_SECONDS
from training.config import DataOptions, ModelOptions, RunOptions, TrainConfig
from training.loop import Progress
from training.optimizer import OptimizerConfig
from training.run import Outcome, train
from training.speed import Speed
from training.text.read import Corpus, read_corpus
from training.toml import to_toml

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def write_corpus(folder: Path) -> Path:
    """Thirty short documents of words in a repeating order."""
    text = "the cat sat on a mat and saw what the dog had done to it while all were out"
    words = text.split()
    folder.mkdir(parents=True)
    for i in range(30):
        some = " ".join(words[(i * 7 + j * (1 + i % 3)) % len(words)] for j in range(40))
        (folder / f"{i:02d}.txt").write_text(f"{i} {some}\n")
    return folder


def text_corpus(path: Path, texts: Iterable[str]) -> Corpus:
    """The texts as the lines of the JSON-lines file `path`."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return read_corpus(str(path))


def tiny(corpus: Path, **changes: Any) -> TrainConfig:
    """A run of 12 steps, evaluated every 4 on a test split and the whole corpus too, and saved every 3.

    `changes` go to whichever section has the field.

    The learning rate's schedule stays the same for all lengths, so that it need not be compiled anew; `schedule_steps` is its end.
    """
    end = changes.pop("schedule_steps", 100)
    config = TrainConfig(
        ModelOptions("27K", "s-base", experts=4, context=16, sequences_per_group=1),
        DataOptions(str(corpus), held_out=0.2, test=0.2, also=f"all={corpus}", batch=4),
        OptimizerConfig(initial_learning_rate=1e-4, peak_learning_rate=1e-2, final_learning_rate=1e-3, warmup_steps=3, steps=end),
        RunOptions(steps=12, evaluate_every=4, evaluation_tokens=500, checkpoint_every=3),
    )
    sections = {
        section: {name: value for name, value in changes.items() if hasattr(getattr(config, section), name) and name != "steps"}
        for section in ("model", "data", "optimizer", "run")
    }
    if "steps" in changes:
        sections["run"]["steps"] = changes["steps"]
    return dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **new) for name, new in sections.items()})


class Quiet:
    """Shows nothing of a run."""

    def on_step(self, progress: Progress) -> None:
        """Nothing."""

    def on_event(self, message: str) -> None:
        """Nothing."""


class Heard:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []
        self.events: list[str] = []

    def on_step(self, progress: Progress) -> None:
        """Keep it."""
        self.steps.append(progress)

    def on_event(self, message: str) -> None:
        """Keep it."""
        self.events.append(message)


def train_here(config: TrainConfig, folder: Path, cache: Path) -> tuple[Outcome, Heard]:
    """Train in this process, and what was shown meanwhile."""
    heard = Heard()
    return train(config, folder, heard, cache), heard


OTHERS: dict[str, Any] = {
    **{"data.corpus": 'a folder/of "texts"', "data.tokenizer": "bpe:300", "data.also": "code=corpus/code", "data.batch": 48},
    **{"model.size": "60K", "model.router": "hash", "model.experts": 10, "model.routing_frequency": 1.0},
    **{"optimizer.warmup_steps": 1500, "optimizer.steps": 4000, "optimizer.schedule": "stable"},
    **{"run.keep_every": 402, "run.begin_from": "runs/long", "run.mesh": "data=4,expert=2"},
}
"""Values that must fit with others, or be text of some form."""


def every_field_changed() -> TrainConfig:
    """A configuration of which no field has its default."""
    default = TrainConfig()
    sections: dict[str, Any] = {}
    for section, options in default.sections().items():
        kinds = get_type_hints(type(options))
        sections[section] = dataclasses.replace(
            options,
            **{
                field.name: OTHERS.get(f"{section}.{field.name}", _another(getattr(options, field.name), kinds[field.name]))
                for field in dataclasses.fields(options)
            },
        )
    routers = {name: sections.pop(name.replace("-", "_")) for name in ROUTERS}
    config = TrainConfig(**sections, routers=routers)
    for name, defaults in default.sections().items():
        options = config.sections()[name]
        assert all(getattr(options, field.name) != getattr(defaults, field.name) for field in dataclasses.fields(options))
    return config


def _another(value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 + 0.0123
        case _:
            return f"{value}-2"


class Started:
    """A process that trains."""

    def __init__(self, config: TrainConfig, folder: Path, cache: Path, *, own_cache: bool = False, **request: Any) -> None:
        """`own_cache`: programs are kept where `train` keeps them, not where JAX's own option says."""
        asked = {"folder": str(folder), "cache": str(cache), "config": to_toml(config), **request}
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        if own_cache:
            environment = {name: value for name, value in environment.items() if "CACHE" not in name}
        command = [sys.executable, str(HERE / "train_worker.py"), json.dumps(asked)]
        self._errors = cache / f"{folder.name}-{os.urandom(4).hex()}.stderr"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT, text=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """What it tells, as it tells it, to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                yield json.loads(line)

    def until(self, key: str, value: Any = None) -> dict[str, Any]:
        """The first event that has `key`, with `value` unless None."""
        event = None
        for event in self.events():
            if key in event and value in (None, event[key]):
                return event
        raise AssertionError(f"the process ended without {key} {value}, after {event}: {self.stderr()}")

    def finish(self) -> list[dict[str, Any]]:
        """The rest of what it tells, to its end."""
        events = list(self.events())
        self.process.wait(timeout=HANG_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return events

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.finish()

    def stderr(self) -> str:
        """What it wrote on standard error."""
        return self._errors.read_text(errors="replace")


def result(folder: Path, step: int) -> dict[str, Any]:
    """All that a run leaves that must not depend on how often it was interrupted."""
    from tests.training.train_worker import digest

    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        for name in (*(each.name for each in dataclasses.fields(Speed)), "crc32"):
            record.pop(name, None)
    return {
        "state": digest(folder, step),
        "curves": (folder / "curves.csv").read_bytes(),
        "metrics": metrics,
        "sample": (folder / "sample.txt").read_bytes(),
    }
