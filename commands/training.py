"""`train`, `sample`, `eval`, `show` and `tokenize`."""

import hashlib
import io
import math
import re
import sys
import typing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands.program import program
from commands.progress import watching
from commands.shared import progress_shown

if TYPE_CHECKING:
    import jax

    from training.config import TrainConfig
    from training.records import MakeSink
    from training.run import Outcome

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]

Mesh = Annotated[str | None, tyro.conf.arg(help="Load the model onto several devices, such as data=1,expert=8,model=1.")]

WeightType = Annotated[Literal["float32", "bfloat16"] | None, tyro.conf.arg(help="Dtype of weights and activations; default: the run's.")]

STOPPED = 130
"""Exit code of a run that was stopped, by Ctrl-C or by a scheduler: what follows it must not take it for trained."""

SPLITS = {"train": "training", "held_out": "held out", "test": "test"}
"""Display names of the splits."""


@dataclass(frozen=True)
class Train:
    """Train a language model, dense or routed, and write its curves for `fit`. The same command resumes an interrupted run."""

    size: str | None = None
    """7K, 15K, 27K, 60K, 107K, 240K, 427K, 1.9M, 5M, or the paper's 15M, 25M, 55M, 130M, 370M, 870M, 1.3B, 7B."""
    recipe: Literal["paper", "small"] | None = None
    """Defaults of all other options: the paper's, or the small models' (the default up to 5M; docs/training.md)."""
    router: str | None = None
    """s-base, hash, rl-r, switch or loss-free (docs/routers.md), or dense."""
    experts: int | None = None
    """Experts E of a routed layer."""
    k: int | None = None
    """Experts per token."""
    granularity: int | None = None
    """G: experts are 1/G as wide as a dense feed-forward."""
    shared_experts: int | None = None
    """Experts that every token uses."""
    routing_frequency: str | None = None
    """Fraction R of blocks that are routed, such as 1/2 or 0.5."""
    steps: int | None = None
    """Training steps. The learning-rate schedule ends with them, and warm-up is at most a tenth of them."""
    tokens: float | None = None
    """Training tokens, instead of steps, such as 8e6."""
    batch: int | None = None
    """Sequences per step."""
    accumulate: int | None = None
    """Gradient-accumulation microbatches per step, to save memory."""
    context: int | None = None
    """Tokens per sequence."""
    learning_rate: float | None = None
    """Peak learning rate."""
    seed: int | None = None
    """Seed of initialisation, sampling and the order of the data."""
    corpus: str | None = None
    """Text: a file (txt, jsonl; gz, xz, zst), a folder, a glob pattern, or token shards; default: State of the Union addresses."""
    tokenizer: str | None = None
    """bytes, bpe:SIZE, a SentencePiece .model or a Hugging Face tokenizer.json."""
    mesh: str | None = None
    """Devices per axis, such as data=4,expert=2,model=1."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the activations."""
    remat: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Rematerialise blocks in the backward pass, to save memory (always on in the paper's recipe)."""
    capacity_factor: float | None = None
    """Capacity factor in training, such as 1.25; 0: no token is dropped."""
    evaluation_capacity_factor: float | None = None
    """Capacity factor in evaluation, such as 2; 0: no token is dropped."""
    coordinator: str | None = None
    """Address and port of process 0, such as 10.0.0.1:1234, for multi-process training; not needed with SLURM or Open MPI."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Index of this process, from 0."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Join the processes that JAX finds by itself, as on Cloud TPU and GKE."""
    join_timeout: float = 300.0
    """Seconds to wait for the other processes."""
    ignore_memory: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Try a step that needs more memory than there is."""
    config: Path | None = None
    """A run's config.toml, to repeat it exactly; the options above override it."""
    out: Path | None = None
    """The run's folder; default: one named after the options, in runs/."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write losses, metrics and loads for TensorBoard: tensorboard --logdir RUN/tensorboard."""
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the configuration that these options make, as TOML for --config, and train nothing."""
    json: Json = False
    """Print JSON only, on standard output."""

    def run(self) -> int:
        """Train, and print the run's folder and held-out loss; or print the configuration.

        Returns 130 if a signal stopped the run before its last step.
        """
        from training.distributed import Processes, surrounding
        from training.prepare import cache_folder
        from training.run import train

        config = self.options()
        if self.print_config:
            from training.toml import to_toml

            print(to_toml(config), end="")
            return 0
        named = Processes(self.coordinator, self.processes, self.process, self.join_timeout)
        others = named if self.coordinator or self.distributed else surrounding(self.join_timeout)
        folder = self.out or Path("runs") / folder_name(config)
        sinks: list[MakeSink] = []
        if self.tensorboard:
            from training.tensorboard import event_file

            sinks.append(event_file(folder))
        with watching() as watcher:
            outcome = train(config, folder, watcher, cache_folder(), others, sinks=sinks, ignore_memory=self.ignore_memory)
        _print_outcome(outcome, self.json)
        return STOPPED if outcome.stopped else 0

    def options(self) -> "TrainConfig":
        """The run's options: those of `config` or the recipe, overridden by the command line."""
        from common.errors import InputError
        from reference.config import routing_frequency
        from reference.errors import Range

        if self.steps is not None and self.tokens is not None:
            raise InputError("--steps and --tokens both set the length of training; give one of them")
        config = self._base()
        names = ("size", "router", "experts", "k", "granularity", "shared_experts", "capacity_factor", "context", "dtype")
        model = _changed(config.model, self, (*names, "evaluation_capacity_factor"))
        model = replace(model, remat=model.remat or self.remat)
        if self.routing_frequency is not None:
            model = replace(model, routing_frequency=routing_frequency(self.routing_frequency))
        data = _changed(config.data, self, ("corpus", "tokenizer", "batch", "accumulate"))
        config = replace(config, model=model, data=data, run=_changed(config.run, self, ("seed", "mesh")))
        if self.tokens is not None:
            Range(0, more=True).check("--tokens", self.tokens)
            config = config.of_length(math.ceil(self.tokens / (data.batch * model.context)))
        elif self.steps is not None:
            config = config.of_length(self.steps)
        if self.learning_rate is not None:
            config = config.with_peak(self.learning_rate)
        config.check()
        return config

    def _base(self) -> "TrainConfig":
        """The options of `config`, or of the recipe. Raises `InputError` if the recipe is ambiguous."""
        from common.errors import InputError
        from reference.sizes import SIZES
        from training.config import TrainConfig, paper_recipe
        from training.toml import read_toml

        if self.config and self.recipe:
            raise InputError("--config and --recipe both set the defaults; give one of them")
        if self.config:
            return read_toml(self.config)
        if self.recipe == "paper":
            default = TrainConfig().model
            return paper_recipe(self.size or "15M", self.router or default.router, self.experts or default.experts)
        if self.recipe is None and self.size in SIZES:
            raise InputError(
                f"{self.size} is a size of the paper; choose a recipe: `cli.py train --size {self.size} --recipe paper` "
                "(250,000 steps of 256 x 2048 tokens),\n"
                f"or `cli.py train --size {self.size} --recipe small` (the small models': 800 steps of 32 x 128 tokens, peak rate 3e-3)"
            )
        return TrainConfig()


def with_defaults(command: type[Train]) -> type[Train]:
    """The command with the defaults of the small models in its help: done only for help, since it imports numerics."""
    from training.config import TrainConfig

    config = TrainConfig()
    known = vars(config.run) | vars(config.data) | vars(config.model) | {"learning_rate": config.optimizer.peak_learning_rate}
    known |= {"routing_frequency": "1/2", "tokens": f"{config.tokens:,}"}
    for name, kind in typing.get_type_hints(command).items():
        value, kinds = known.get(name), [each for each in typing.get_args(kind) if each is not type(None)]
        if getattr(command, name) is None:
            choices = typing.get_args(kinds[0])
            metavar = f"{{{','.join(choices)}}}" if choices else kinds[0].__name__.upper()
            default = f"(default: {value})" if value not in (None, "") else ""
            command.__annotations__[name] = Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=default)]
    return command


@dataclass(frozen=True)
class Tokenize:
    """Write a corpus as token shards, which `train --corpus` streams instead of holding them in memory."""

    corpus: Annotated[str, tyro.conf.Positional]
    """Text: a file (txt, jsonl; gz, xz, zst), a folder, or a glob pattern."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder to write; it must not exist."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the corpus), a SentencePiece .model or a Hugging Face tokenizer.json."""
    held_out: float = 0.05
    """Fraction of documents in the held-out split."""
    test: float = 0.0
    """Fraction of documents in the test split, for final results."""

    def run(self) -> None:
        """Tokenize, and print the size of each split."""
        from training.config import DataOptions
        from training.corpus import Document, documents
        from training.prepare import cache_folder, tokenizer_for
        from training.shards import write_shards

        data = DataOptions(self.corpus, self.tokenizer, self.held_out, self.test)
        tokenizer = tokenizer_for(data, cache_folder())
        with progress_shown("documents") as progress:
            done = 0

            def _count(document: Document) -> None:
                nonlocal done
                done += 1
                progress(done, 0, document.name)

            shards = write_shards(documents(self.corpus), tokenizer, self.out, held_out=data.held_out, test=data.test, on_document=_count)
        for split, number in shards.documents.items():
            tokens = sum(shard.tokens for shard in shards.files[split])
            print(f"{self.out}, {SPLITS[split]}: {tokens:,} tokens of {number:,} documents")


@dataclass(frozen=True)
class Sample:
    """Sample a continuation of a text from a trained model."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    prompt: str = ""
    """The text to continue; empty: start a document."""
    tokens: int = 256
    """Tokens to sample."""
    temperature: float = 1.0
    """Softmax temperature; 0 takes the most probable token."""
    seed: int = 0
    """Sampling seed."""
    mesh: Mesh = None
    dtype: WeightType = None

    def run(self) -> None:
        """Sample and print."""
        from training.load import sample_run

        options: Any = {"tokens": self.tokens, "temperature": self.temperature, "seed": self.seed}
        print(sample_run(self.folder, self.prompt, **options, mesh=_mesh(self.mesh), dtype=self.dtype, say=_say))


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained model's loss on a text."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    corpus: str | None = None
    """The text, as for `train`; default: the run's own held-out text."""
    tokens: int = 0
    """Number of tokens to evaluate, approximately, from the beginning; 0 for all."""
    mesh: Mesh = None
    dtype: WeightType = None
    json: Json = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Print loss and bits per byte."""
        from training.load import evaluate_run
        from training.prepare import cache_folder

        found = evaluate_run(
            self.folder, self.corpus, cache_folder(), tokens=self.tokens, mesh=_mesh(self.mesh), dtype=self.dtype, say=_say
        )
        if self.json:
            import json

            print(json.dumps(asdict(found), indent=2))
            return
        print(f"{found.nats_per_token:.4f} nats per token, {found.bits_per_byte:.4f} bits per byte, on {found.tokens:,} tokens")


@dataclass(frozen=True)
class Show:
    """Summarise a run: its loss curve, and the load of its experts."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    out: Path | None = None
    """A file for the figure: .png, .svg or .pdf."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Convert the run's records for TensorBoard, as `train --tensorboard` writes them."""

    def run(self) -> None:
        """Print the summary, and draw the figure if requested."""
        from training.show import figure, history, summary

        run = history(self.folder)
        print(summary(run))
        if self.out:
            from common.files import write_atomically

            image = io.BytesIO()
            figure(run).savefig(
                image, format=self.out.suffix.removeprefix(".") or "png", metadata={"Date": None} if self.out.suffix == ".svg" else None
            )
            write_atomically(self.out, image.getvalue())
            print(f"Figure: {self.out}")
        if self.tensorboard:
            from training.records import METRICS, read_metrics
            from training.tensorboard import FOLDER, convert, require_tensorboard

            require_tensorboard()
            metrics = self.folder / METRICS
            print(f"TensorBoard: {convert(read_metrics(metrics), self.folder / FOLDER, metrics.stat().st_mtime)}")


def _mesh(described: str | None) -> "jax.sharding.Mesh | None":
    """The mesh that `--mesh` describes; None without one."""
    if described is None:
        return None
    from training.config import RunOptions
    from training.start import run_mesh

    return run_mesh(RunOptions(mesh=described))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _changed(options: Any, command: Train, names: tuple[str, ...]) -> Any:
    return replace(options, **{name: getattr(command, name) for name in names if getattr(command, name) is not None})


def folder_name(config: "TrainConfig") -> str:
    """A name for a run's folder: its model, and whatever differs from its recipe, so that other runs have other names.

    What a run may change as it goes on is not in it: the same command continues it.
    """
    from training.config import TrainConfig, differences, paper_recipe
    from training.folder import AFTER_DECAY_BEGINS, MAY_DIFFER

    model, run, rate = config.model, config.run, config.optimizer.peak_learning_rate
    same = ("model.size", "model.router", "model.experts", "model.k", "data.corpus", "run.seed", *MAY_DIFFER)
    if config.optimizer.schedule == "stable":
        same = (*same, *AFTER_DECAY_BEGINS)
    recipes = [TrainConfig(), paper_recipe(model.size, model.router, model.experts)]
    recipe = min(recipes, key=lambda recipe: len(differences(config, recipe, except_for=same)))
    parts = [model.size, model.router]
    if model.router != "dense":
        parts += [f"e{model.experts}", *([f"k{model.k}"] * (model.k > 1))]
    if config.data.corpus:
        parts.append(re.sub(r"[^A-Za-z0-9._-]+", "_", Path(config.data.corpus).name)[:20].strip("._"))
    if run.steps != recipe.run.steps and config.optimizer.schedule == "cosine":
        parts.append(f"{run.steps}steps")
        recipe = recipe.of_length(run.steps)
    if rate != recipe.optimizer.peak_learning_rate:
        parts.append(f"lr{rate:g}")
        recipe = recipe.with_peak(rate)
    if other := differences(config, recipe, except_for=same):
        parts.append(hashlib.sha256("\n".join(other).encode()).hexdigest()[:6])
    return "-".join([*filter(None, parts), f"seed{run.seed}"])


def _print_outcome(outcome: "Outcome", as_json: bool) -> None:
    if as_json:
        import json

        record = {"folder": str(outcome.folder), "step": outcome.step, "loss_validation": outcome.held_out, "stopped": outcome.stopped}
        print(json.dumps(record | {"sample": outcome.sample}, indent=2))
        return
    if outcome.stopped:
        print(f"{outcome.folder}: stopped after step {outcome.step}; the same command continues from there")
        return
    print(f"{outcome.folder}: {outcome.step} steps, held-out loss {outcome.held_out:.4f} nats per token")
    print(f"\n{outcome.sample}\n")
    print(f"Curves and loads:  {program()} show {outcome.folder} --out {outcome.folder}/run.svg")
    print(f"More of its text:  {program()} sample {outcome.folder} --prompt Fellow")
    print(f"A law: train four or more sizes (--size 27K, 60K, 240K, ...), then  {program()} fit {outcome.folder.parent}/*/curves.csv")
