"""`train`."""

import hashlib
import math
import re
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands.interrupt import INTERRUPTED
from commands.program import program
from commands.progress import watching
from commands.shared import Flat, Shape
from commands.trained import Json, shown

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.run import Outcome
    from training.sinks import MakeSink


@dataclass(frozen=True)
class Train:
    """Train a language model, dense or routed, and write its curves for `fit`. The same command resumes an interrupted run."""

    size: str | None = None
    """7K, 15K, 27K, 60K, 107K, 240K, 427K, 1.9M, 5M, or the paper's 15M, 25M, 55M, 130M, 370M, 870M, 1.3B, 7B; or a shape:
    96x2x4x24."""
    shape: Flat[Shape] = field(default_factory=Shape)
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
    """Peak learning rate; default: 5e-3 at 107K, lower for larger models (--print-config)."""
    seed: int | None = None
    """Seed of initialisation, sampling and the order of the data."""
    corpus: str | None = None
    """Text: a file, a folder, a glob pattern, token shards, hf:NAME[:CONFIG][:SPLIT], or a mixture such as web=2,books=1; default: State
    of the Union addresses."""
    held_out: float | None = None
    """Fraction of the documents that is held out; of a single document, its last part."""
    held_out_corpus: str | None = None
    """Another text that is held out instead."""
    text_field: str | None = None
    """The field or column of JSON, CSV, Parquet or Arrow records that is their text."""
    skip_bad_records: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out records without a readable text, and count them."""
    mask_documents: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Attention does not cross the ends of documents."""
    tokenizer: str | None = None
    """bytes, bpe:SIZE, a SentencePiece .model, a Hugging Face tokenizer.json, or hf:NAME."""
    initial_weights: str | None = None
    """A .safetensors file (cli.py export) whose weights training begins from; optimizer and schedule are new."""
    mesh: str | None = None
    """Devices per axis, such as data=4,expert=2,model=1; all: every device, experts over as many as divide both."""
    fsdp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Spread the blocks' weights over all devices and gather them layer by layer, to save memory."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the activations."""
    attention: Literal["auto", "plain", "chunked", "kernel"] | None = None
    """How attention is computed; auto: in chunks of queries where a sequence has several."""
    remat: Literal["none", "selective", "full"] | None = None
    """What blocks compute again in the backward pass, to save memory (selective in the paper's recipe)."""
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
    """The run's folder, local or gs://BUCKET/RUN; default: one named after the options, in runs/."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write losses, metrics and loads for TensorBoard: tensorboard --logdir RUN/tensorboard."""
    wandb: str | None = None
    """A Weights & Biases project to log losses and metrics to."""
    profile: str | None = None
    """Trace the steps FIRST:LAST, such as 20:22, into the run's folder, for Perfetto or TensorBoard."""
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the configuration that these options make, as TOML for --config, and train nothing."""
    json: Json = False
    """Print JSON only, on standard output."""

    def run(self) -> int:
        """Train, and print the run's folder and held-out loss; or print the configuration.

        Returns 130 if a signal stopped the run before its last step.
        """
        from common.files import store_url
        from training.cache import cache_folder
        from training.distributed import Processes, surrounding
        from training.profile import parse_steps
        from training.run import train
        from training.store import check_store
        from training.text.files import check_local

        config, profile = self.options(), parse_steps(self.profile) if self.profile else None
        if self.print_config:
            from training.toml import to_toml

            print(to_toml(config), end="")
            return 0
        named = Processes(self.coordinator, self.processes, self.process, self.join_timeout)
        others = named if self.coordinator or self.distributed else surrounding(self.join_timeout)
        folder = self.out or Path("runs") / folder_name(config)
        if url := store_url(folder):
            check_store(url)
        else:
            check_local(str(folder))
        sinks: list[MakeSink] = []
        if self.tensorboard:
            from training.tensorboard import event_file

            sinks.append(event_file())
        if self.wandb:
            from training.wandb import wandb_run

            sinks.append(wandb_run(self.wandb, config))
        with watching() as watcher:
            outcome = train(config, folder, watcher, cache_folder(), others, sinks=sinks, ignore_memory=self.ignore_memory, profile=profile)
        _print_outcome(outcome, self.json)
        # Stopped by Ctrl-C or by a scheduler: what follows must not take it for trained.
        return INTERRUPTED if outcome.stopped else 0

    def options(self) -> "TrainConfig":
        """The run's options: those of `config` or the recipe, overridden by the command line."""
        from common.errors import InputError
        from reference.config import routing_frequency
        from reference.errors import Range

        if self.shape.name:
            if self.size is not None:
                raise InputError(f"--size {self.size} and --d-model {self.shape.d_model} both set the architecture; give one of them")
            return replace(self, size=self.shape.name, shape=Shape()).options()
        if self.steps is not None and self.tokens is not None:
            raise InputError("--steps and --tokens both set the length of training; give one of them")
        if self.corpus == "":
            raise InputError("--corpus is empty; leave it out for the default corpus")
        config = self._base()
        names = (
            "size",
            "router",
            "experts",
            "k",
            "granularity",
            "shared_experts",
            "capacity_factor",
            "context",
            "dtype",
            "attention",
            "remat",
        )
        model = _changed(config.model, self, (*names, "evaluation_capacity_factor"))
        model = replace(model, mask_documents=model.mask_documents or self.mask_documents)
        if self.routing_frequency is not None:
            model = replace(model, routing_frequency=routing_frequency(self.routing_frequency))
        names = ("corpus", "tokenizer", "held_out", "held_out_corpus", "text_field", "batch", "accumulate")
        data = _changed(config.data, self, names)
        data = replace(data, skip_bad_records=data.skip_bad_records or self.skip_bad_records)
        run = replace(config.run, fsdp=config.run.fsdp or self.fsdp)
        config = replace(config, model=model, data=data, run=_changed(run, self, ("seed", "mesh", "initial_weights")))
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
        from training.config import TrainConfig, paper_recipe, small_recipe
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
                f"or `cli.py train --size {self.size} --recipe small` (the small models': 800 steps of 32 x 128 tokens)"
            )
        return small_recipe(self.size or TrainConfig().model.size)


def with_defaults(command: type[Train]) -> type[Train]:
    """The command with the defaults of the small models in its help: done only for help, since it imports numerics."""
    from training.config import TrainConfig

    config = TrainConfig()
    known = vars(config.run) | vars(config.data) | vars(config.model) | {"routing_frequency": "1/2", "tokens": f"{config.tokens:,}"}
    for name, kind in typing.get_type_hints(command).items():
        value, kinds = known.get(name), [each for each in typing.get_args(kind) if each is not type(None)]
        if getattr(command, name, kind) is None:
            choices = typing.get_args(kinds[0])
            metavar = f"{{{','.join(choices)}}}" if choices else kinds[0].__name__.upper()
            default = f"(default: {value})" if value not in (None, "") else ""
            command.__annotations__[name] = Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=default)]
    return command


def _changed(options: Any, command: Train, names: tuple[str, ...]) -> Any:
    return replace(options, **{name: getattr(command, name) for name in names if getattr(command, name) is not None})


def folder_name(config: "TrainConfig") -> str:
    """A name for a run's folder: its model, and whatever differs from its recipe, so that other runs have other names.

    What a run may change as it goes on is not in it: the same command continues it.
    """
    from training.config import differences, paper_recipe, small_recipe
    from training.folder import AFTER_DECAY_BEGINS, MAY_DIFFER, TEXT

    model, run, rate = config.model, config.run, config.optimizer.peak_learning_rate
    named = ("model.size", "model.router", "model.experts", "model.k", "data.corpus", "data.tokenizer", "run.seed")
    same = (*named, *(option for option in MAY_DIFFER if option not in TEXT))
    if config.optimizer.schedule == "stable":
        same = (*same, *AFTER_DECAY_BEGINS)
    recipes = [small_recipe(model.size), paper_recipe(model.size, model.router, model.experts)]
    recipe = min(recipes, key=lambda recipe: len(differences(config, recipe, except_for=same)))
    parts = [model.size, model.router]
    if model.router != "dense":
        parts += [f"e{model.experts}", *([f"k{model.k}"] * (model.k > 1))]
    given = config.data.corpus, config.data.tokenizer if config.data.tokenizer != "bytes" else ""
    parts += [re.sub(r"[^A-Za-z0-9.-]+", "_", Path(each).name)[:20].strip("._") for each in given]
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
    from common.files import store_url

    folder = store_url(outcome.folder) or str(outcome.folder)
    if as_json:
        import json

        record = {"folder": folder, "step": outcome.step, "loss_validation": outcome.held_out, "stopped": outcome.stopped}
        print(json.dumps(record | {"sample": outcome.sample}, indent=2))
        return
    if outcome.stopped:
        print(f"{folder}: stopped after step {outcome.step}; the same command continues from there")
        return
    print(f"{folder}: {outcome.step} steps, held-out loss {outcome.held_out:.4f} nats per token")
    print(f"\n{shown(outcome.sample)}\n")
    figure = "run.svg" if store_url(outcome.folder) else f"{folder}/run.svg"
    print(f"Curves and loads:  {program()} show {folder} --out {figure}")
    print(f"More of its text:  {program()} sample {folder} --prompt Fellow")
    print(f"A law: train four or more sizes (--size 27K, 60K, 240K, ...), then  {program()} fit {folder.rpartition('/')[0]}/*/curves.csv")
