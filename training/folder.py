"""A run's folder: its files, the run it belongs to, and whether that is finished.

lock              held by the training process
config.toml       repeats the run exactly
data.json         tokenizer and text; a run continues with the same ones only
tokenizer.model   unless the tokenizer is bytes
digests.json      `manifest.py`, SHA-256 of the other files
checkpoints/      `checkpoint.py`
set_aside/        what a run could not be continued from
metrics.jsonl     `records.py`, a line per step and per evaluation
curves.csv        `curves.py`, a row per evaluation, for `fit`
choices/          `choices.py`, the experts of each evaluation's tokens
tensorboard/      `tensorboard.py`, optional
wandb_id, wandb/  `wandb.py`, optional
sample.txt        written last: its presence marks a finished run
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.errors import InputError, WorkError
from common.terminal import Say
from training.config import TrainConfig, differences
from training.curves import CURVES, last_loss
from training.manifest import check_file, differing, is_recorded
from training.records import METRICS
from training.restore import CHECKPOINTS, checkpoint_steps
from training.text.given import settled
from training.text.prepare import PreparedText, cached_text
from training.text.shards import MODEL
from training.text.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from
from training.toml import read_toml, to_toml

CONFIG, DATA, SAMPLE, LOCK = "config.toml", "data.json", "sample.txt", "lock"

PATIENCE_SECONDS = 45
"""How long to wait for another process to release a folder.

Our choice: a process that was asked to stop may still write a checkpoint.
"""

TEXT = ("data.corpus", "data.held_out_corpus", "data.text_field", "data.tokenizer")
"""Options that name the text and its tokenizer."""

MAY_DIFFER = (
    *TEXT,
    *("data.accumulate", "data.also"),
    *("model.attention", "model.remat"),
    *("run.steps", "run.mesh", "run.fsdp", "run.keep", "run.keep_every"),
    *("run.evaluate_every", "run.evaluation_tokens", "run.checkpoint_every"),
)
"""Options that a continued run may change.

They change results by rounding only, except that RL-R resamples for each microbatch. Text and
tokenizer may have moved: `check_data` compares their content.
"""

AFTER_DECAY_BEGINS = ("optimizer.steps", "optimizer.decay_steps", "optimizer.final_learning_rate")
"""Options that have no effect before the decay of the stable schedule."""


@dataclass(frozen=True)
class Data:
    """Identifies a run's tokenizer and text."""

    tokenizer: str
    """Fingerprint of the tokenizer."""
    vocabulary: int
    train_tokens: int
    held_out_tokens: int
    content: str
    """SHA-256 of the text."""
    read_as: str
    """What its files were read as."""
    parts: tuple[tuple[float, str], ...]
    """Weights and names of its token shards in the cache."""
    held_out_part: str
    """The name of those of the text that is held out, if it is another one."""


def data_of(tokenizer: Tokenizer, text: PreparedText) -> Data:
    """The identity of a tokenizer and a text."""
    return Data(
        tokenizer.fingerprint,
        tokenizer.vocabulary,
        text.tokens("train"),
        text.tokens("held_out"),
        text.content,
        text.read_as,
        tuple((weight, shards.folder.name) for weight, shards in text.parts),
        text.held_out.folder.name if text.held_out else "",
    )


@contextmanager
def locked(folder: Path, on_event: Say) -> Generator[None]:
    """Locks `folder`, creating it if needed; the system releases the lock however the process ends.

    Raises `WorkError` if another process holds it for longer than `PATIENCE_SECONDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_event(f"another process is using {folder}; waiting for it to end")
            lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout as error:
        raise WorkError(
            f"another process is using {folder}; wait until it has ended, or use another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_options(folder: Path, config: TrainConfig) -> None:
    """Raises `InputError` if the run in `folder` cannot be continued with the options of `config`.

    All options must be equal except `MAY_DIFFER` and, with the stable schedule before its decay
    begins, `AFTER_DECAY_BEGINS`. The message lists the differences.
    """
    config = replace(config, data=settled(config.data))
    before = _options_before(folder, config) if is_kept(folder) else None
    if before is None:
        return
    newest = max(checkpoint_steps(folder / CHECKPOINTS), default=0)
    different = differences(config, before, except_for=MAY_DIFFER)
    if not different and config.group() != before.group():
        raise InputError(
            f"{folder} has a run with {before.group()} sequences per group, but this mesh and "
            f"accumulate give {config.group()}; use another mesh, or another folder with "
            "model.sequences_per_group"
        )
    reason = ""
    if config.optimizer.schedule == before.optimizer.schedule == "stable":
        decay = min(config.optimizer.decay_begins, before.optimizer.decay_begins)
        if newest <= decay:
            different = differences(config, before, except_for=MAY_DIFFER + AFTER_DECAY_BEGINS)
        else:
            reason = (
                f"; its decay begins after step {decay}, but its newest checkpoint is of step "
                f'{newest}: train in another folder with begin_from = "{folder}"'
            )
    elif config.optimizer.steps != before.optimizer.steps:
        reason = (
            "; a cosine schedule depends on its last step throughout: "
            'runs that may become longer need schedule = "stable"'
        )
    if different:
        raise InputError(
            f"{folder} has a run with other options ({'; '.join(different)}); "
            f"use its options, or another folder{reason}"
        )
    if config.run.steps < newest:
        raise InputError(
            f"{folder} has a run of {newest} steps, but run.steps is {config.run.steps}; "
            "ask for more steps, or use another folder"
        )


def is_kept(folder: Path) -> bool:
    """Whether `folder` has a checkpoint or a finished run, which no other run may replace."""
    return bool(checkpoint_steps(folder / CHECKPOINTS)) or (folder / SAMPLE).exists()


def run_options(folder: Path) -> TrainConfig:
    """The options of the run in `folder`.

    Raises `InputError` if there is none, or its config.toml is not what was written.
    """
    if (folder / CONFIG).exists():
        check_file(folder, CONFIG)
    return read_toml(folder / CONFIG)


def _options_before(folder: Path, config: TrainConfig) -> TrainConfig | None:
    """The options of the run in `folder`, `config` itself if its file is damaged but was of these.

    None if there is no run.
    """
    if differing(folder, [CONFIG]):
        if is_recorded(folder, CONFIG, to_toml(config).encode()):
            return config
        check_file(folder, CONFIG)
    return read_toml(folder / CONFIG) if (folder / CONFIG).exists() else None


RESULTS = (CURVES, METRICS, SAMPLE)
"""Files whose digests are known once a run is finished."""


def finished(folder: Path, config: TrainConfig) -> tuple[float, str] | None:
    """Held-out loss and sample of the run in `folder`.

    None if it is not finished, if one of its files is not what it was then, or if the text of
    `config` has another name than the run's.
    """
    loss = last_loss(folder / CURVES, config.run.steps)
    if loss is None or not (folder / SAMPLE).is_file() or differing(folder, RESULTS):
        return None
    before = _options_before(folder, config)
    if before is not None and not _same_text(config, before):
        # Whether it is the same by content is found out by reading it.
        return None
    # In binary mode, because text mode would change the sample's line ends.
    return loss, (folder / SAMPLE).read_bytes().decode()


def _same_text(one: TrainConfig, other: TrainConfig) -> bool:
    ours, theirs = (asdict(settled(config.data)) for config in (one, other))
    return all(
        ours[name.removeprefix("data.")] == theirs[name.removeprefix("data.")] for name in TEXT
    )


def tokenizer_of(folder: Path, config: TrainConfig) -> Tokenizer:
    """The tokenizer of the run in `folder`."""
    model = folder / MODEL
    check_file(folder, MODEL)
    if not model.exists():
        return ByteTokenizer()
    return tokenizer_from(model.read_bytes(), config.data.tokenizer)


def _read_data(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is damaged; remove it to continue with the text as it is now, unchecked"
        )
    return found


def own_text(folder: Path, cache: Path) -> PreparedText | None:
    """The text of the run in `folder`, from the cache; None if it is not there.

    Tokens in the cache are found by content: the corpus may have moved.
    """
    if not (folder / DATA).exists():
        return None
    check_file(folder, DATA)
    data = _read_data(folder / DATA)
    parts = [(weight, name) for weight, name in data.get("parts", ())]
    return cached_text(parts, data.get("held_out_part", ""), cache)


def check_data(folder: Path, tokenizer: Tokenizer, text: PreparedText) -> None:
    """Raises `InputError` if the run in `folder`, if any, has another tokenizer or text."""
    if not (folder / DATA).exists():
        return
    check_file(folder, DATA)
    data, before = data_of(tokenizer, text), _read_data(folder / DATA)
    for name, what in (
        ("vocabulary", "a vocabulary of {} ids"),
        ("tokenizer", "tokenizer {:.12}"),
        ("train_tokens", "{} training tokens"),
        ("held_out_tokens", "{} held-out tokens"),
        ("content", "text of SHA-256 {:.12}"),
    ):
        was, now = before.get(name, "(not kept)"), getattr(data, name)
        if was != now:
            raise InputError(
                f"{folder} was started with {what.format(was)}, "
                f"the corpus now gives {what.format(now)}; "
                "restore the corpus, or train in another folder"
            )
