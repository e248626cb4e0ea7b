"""`sample`, `eval`, `show` and `export`: what a run's folder holds."""

import io
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    import jax

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]

Mesh = Annotated[str | None, tyro.conf.arg(help="Load the model onto several devices, such as data=1,expert=8,model=1, or all.")]

WeightType = Annotated[Literal["float32", "bfloat16"] | None, tyro.conf.arg(help="Dtype of weights and activations; default: the run's.")]


@dataclass(frozen=True)
class Sample:
    """Sample continuations of a text from a trained model."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or a .safetensors file that `export` wrote."""
    prompt: str = ""
    """The text to continue; empty: start a document."""
    samples: int = 1
    """Continuations, sampled together."""
    tokens: int = 256
    """Tokens to sample for each."""
    temperature: float = 1.0
    """Softmax temperature; 0 takes the most probable token."""
    seed: int = 0
    """Sampling seed."""
    mesh: Mesh = None
    dtype: WeightType = None
    json: Json = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Sample and print."""
        from training.load import sample_run

        names = ("samples", "tokens", "temperature", "seed")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = sample_run(self.folder, self.prompt, **options, mesh=_mesh(self.mesh), dtype=self.dtype, say=_say)
        if self.json:
            import json

            print(json.dumps({"folder": str(self.folder), "prompt": self.prompt, **options, **asdict(found)}, indent=2))
            return
        for i, text in enumerate(found.texts, 1):
            if self.samples > 1:
                print(f"{'' if i == 1 else chr(10)}[{i} of {self.samples}]")
            print(shown(text))


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained model's loss on a text."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or a .safetensors file that `export` wrote."""
    corpus: str | None = None
    """The text, as for `train`, whole; of token shards their held-out split; default: the run's own held-out text. A file needs one."""
    tokens: int | None = None
    """Number of tokens to predict, spread evenly over the text; 0 for all; default: the run's evaluation_tokens, as in training."""
    text_field: str | None = None
    """The field or column of records that is their text; default: the run's."""
    mesh: Mesh = None
    dtype: WeightType = None
    json: Json = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Print loss and bits per byte."""
        from training.cache import cache_folder
        from training.load import evaluate_run

        options: Any = {"tokens": self.tokens, "text_field": self.text_field, "dtype": self.dtype}
        found = evaluate_run(self.folder, self.corpus, cache_folder(), mesh=_mesh(self.mesh), say=_say, **options)
        if self.json:
            import json

            print(json.dumps(asdict(found), indent=2))
            return
        amount = f"{found.tokens:,} of {found.of_tokens:,} tokens"
        rest = "" if found.tokens == found.of_tokens else ", spread evenly over the text (--tokens 0: all)"
        print(f"{found.nats_per_token:.4f} nats per token, {found.bits_per_byte:.4f} bits per byte, on {amount}{rest}")


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
            from common.errors import InputError
            from common.files import store_url
            from training.records import METRICS, read_metrics
            from training.tensorboard import FOLDER, convert, require_tensorboard

            require_tensorboard()
            if store_url(self.folder):
                raise InputError("--tensorboard writes beside the run; copy it to a local folder first")
            metrics = self.folder / METRICS
            print(f"TensorBoard: {convert(read_metrics(metrics), self.folder / FOLDER, metrics.stat().st_mtime)}")


@dataclass(frozen=True)
class Export:
    """Write a run's weights, options and tokenizer as one safetensors file (docs/weights.md)."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    out: Path
    """The file to write: NAME.safetensors."""
    step: int | None = None
    """The checkpoint's step; default: the newest."""
    dtype: WeightType = None

    def run(self) -> None:
        """Write the file, and print its size."""
        from training.load import load_run
        from training.weights import write_weights

        run = load_run(self.folder, self.step, dtype=self.dtype, say=_say)
        tensors = write_weights(self.out, run.model, run.config, run.tokenizer, run.step)
        print(f"{self.out}: {len(tensors)} tensors of step {run.step}, {self.out.stat().st_size / 1e6:,.1f} MB")


def _mesh(described: str | None) -> "jax.sharding.Mesh | None":
    """The mesh that `--mesh` describes; None without one."""
    if described is None:
        return None
    from training.config import RunOptions
    from training.devices import all_devices
    from training.start import run_mesh

    return run_mesh(RunOptions(mesh=f"data={len(all_devices())}" if described == "all" else described))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """`text` as it is, but without control characters where it would reach a terminal."""
    from common.terminal import printable

    return printable(text) if sys.stdout.isatty() else text
