"""Weights as safetensors: bit for bit there and back, names as documented, and what is refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cli import main
from common.errors import InputError
from reference.config import Dtype
from reference.routers import ROUTERS
from tests.checks import unchecked
from tests.reference.small_models import drawn
from tests.training.tiny_runs import ROOT, Quiet, tiny, write_corpus
from training.config import DataOptions, ModelOptions, TrainConfig
from training.load import evaluate_run, load_run, sample_run
from training.restore import named_arrays
from training.run import train
from training.start import model_shapes
from training.text.bpe import train_bpe
from training.text.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer
from training.weights import NAMES, read_header, read_weights_file, write_weights

ModelAndConfig = tuple[Any, TrainConfig]


def a_model(router: str, dtype: Dtype | None = None, **options: Any) -> ModelAndConfig:
    """A model of 27K with every weight drawn, tables too, and its options."""
    config = TrainConfig(ModelOptions("27K", router, 4, context=16, **options))
    shapes = model_shapes(config.model_config(257), None, dtype)
    layers, rows = config.model_config(257).routed_layers, 257 * config.model.k
    tables = np.random.default_rng(3).integers(4, size=layers * rows).reshape(layers, 257, config.model.k)
    return drawn(shapes, tables=jnp.asarray(tables, jnp.int32)), config


def same_bits(one: Any, other: Any) -> None:
    """Every array has the same bytes, and the same dtype."""
    ours, theirs = named_arrays(one), named_arrays(other)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes(), name


def without_padding(model: Any, vocabulary: int) -> Any:
    """The model with 0 in the embedding's rows of padding, as training leaves them."""
    return eqx.tree_at(lambda model: model.embedding, model, model.embedding.at[vocabulary:].set(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("router", ["dense", *ROUTERS])
def test_every_models_weights_are_written_and_read_bit_for_bit(tmp_path: Path, router: str, dtype: Dtype) -> None:
    options: dict[str, Any] = {} if router == "dense" else {"shared_experts": 1, "granularity": 2}
    model, config = a_model(router, dtype, **options)
    model = without_padding(model, 257)
    path = tmp_path / "model.safetensors"
    write_weights(path, model, config, ByteTokenizer(), 7)
    header = read_header(path)
    assert (header.config, header.step, header.tokenizer.fingerprint) == (config, 7, "bytes")
    same_bits(read_weights_file(path, model_shapes(config.model_config(257), None, dtype)), model)


@pytest.mark.parametrize(
    ("router", "options"), [("dense", {}), ("loss-free", {"k": 2, "shared_experts": 1}), ("hash", {"routing_frequency": 1.0})]
)
def test_the_tensors_have_the_names_of_the_table_and_are_the_blocks_weights(tmp_path: Path, router: str, options: dict[str, Any]) -> None:
    model, config = a_model(router, **options)
    path = tmp_path / "model.safetensors"
    assert set(write_weights(path, model, config, ByteTokenizer(), 7)) == set(load_file(path))
    period = config.model_config(257).period
    for name, array in load_file(path).items():
        number = re.search(r"\.(\d+)\.", name)
        field, axes = NAMES[name if number is None else name.replace(number[1], "N", 1)]
        at: Any = model if number is None else model.groups.blocks[int(number[1]) % period]
        for part in field.split("."):
            at = getattr(at, part)
        expected = at if number is None else at[int(number[1]) // period]
        np.testing.assert_array_equal(array, expected[:257] if name == "embedding" else expected)
        assert array.ndim == len(axes.split())


def test_the_documented_names_are_those_of_the_table() -> None:
    page = (ROOT / "docs/weights.md").read_text()
    rows = re.findall(r"^\| `([a-zN._]+)` \| `([a-z._]+)` \| ([a-z_ ]+) \|", page, re.M)
    assert {name: (field, axes) for name, field, axes in rows} == {name: tuple(weight) for name, weight in NAMES.items()}


def test_the_header_has_the_tokenizer_itself_and_no_path(tmp_path: Path) -> None:
    tokenizer: Tokenizer = SentencePieceTokenizer(train_bpe(["the cat sat on the mat " * 50], 280), "/home/me/own.model")
    config = TrainConfig(ModelOptions("27K", "dense", context=16), DataOptions("/home/me/texts", "/home/me/own.model", also="a=/home/me/b"))
    shapes = model_shapes(config.model_config(tokenizer.vocabulary), None, None)
    path = tmp_path / "model.safetensors"
    write_weights(path, drawn(shapes), config, tokenizer, 7)
    assert b"/home/me" not in path.read_bytes()
    found = read_header(path)
    assert found.tokenizer.fingerprint == tokenizer.fingerprint
    assert found.config.data == DataOptions(tokenizer="own.model")


def changed(path: Path, **tensors: Any) -> Path:
    """The file with other tensors; None: without."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata: Any = file.metadata()
    kept = {name.replace("_", "."): array for name, array in tensors.items() if array is not None}
    other = {name: array for name, array in load_file(path).items() if name.replace("_", ".") not in {n.replace("_", ".") for n in tensors}}
    save_file(other | kept, path.with_name("changed.safetensors"), metadata=metadata)
    return path.with_name("changed.safetensors")


def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    model, config = a_model("dense")
    path, like = tmp_path / "model.safetensors", model_shapes(config.model_config(257), None, None)
    write_weights(path, model, config, ByteTokenizer(), 7)
    for tensors, message in (
        ({"blocks_1_attention_query": None}, r"lacks blocks\.1\.attention\.query"),
        ({"blocks_9_attention_query": np.zeros(3)}, r"has an extra tensor blocks\.9\.attention\.query"),
        (
            {"blocks_1_attention_query": np.zeros((3, 2), np.float32)},
            r"blocks\.1\.attention\.query is float32 \[3, 2\], the model's float32 \[",
        ),
        ({"embedding": np.zeros((257, like.embedding.shape[1]), np.int32)}, r"embedding is int32"),
    ):
        with pytest.raises(InputError, match=message):
            read_weights_file(changed(path, **tensors), like)
    for other, message in ((b"x" * 100, "not a readable safetensors file"), (b"", "not a readable safetensors file")):
        (tmp_path / "broken.safetensors").write_bytes(other)
        with pytest.raises(InputError, match=message):
            read_header(tmp_path / "broken.safetensors")
    save_file({"x": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match=r"format None in its header, not 'routelaw 1'"):
        read_header(tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match=r"there is no file .*export RUN"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        write_weights(tmp_path / "model.bin", model, config, ByteTokenizer(), 7)


@unchecked()
def test_a_run_is_exported_evaluated_sampled_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, run, file = write_corpus(tmp_path / "corpus"), tmp_path / "run", tmp_path / "model.safetensors"
    config = tiny(corpus, steps=3, test=0.0, also="")
    train(config, run, Quiet(), tmp_path)
    assert main(["export", str(run), "--out", str(file)]) == 0
    assert re.search(r"tensors of step 3, 0\.\d MB", capsys.readouterr().out)
    same_bits(load_run(file).model, load_run(run).model)
    assert evaluate_run(file, str(corpus), tmp_path) == evaluate_run(run, str(corpus), tmp_path)
    assert sample_run(file, "the", tokens=3) == sample_run(run, "the", tokens=3)
    with pytest.raises(InputError, match=r"no text of its own; name one: --corpus TEXT"):
        evaluate_run(file, None, tmp_path)
    # Training begins from these weights: its first loss is theirs on the first batch, which a new model does not have.
    again = dataclasses.replace(config, run=dataclasses.replace(config.run, initial_weights=str(file), steps=1))
    assert train(again, tmp_path / "on", Quiet(), tmp_path).step == 1
    first = [float(re.findall(r'"loss": ([0-9.]+)', (tmp_path / name / "metrics.jsonl").read_text())[0]) for name in ("run", "on")]
    assert first[1] < first[0]
    both = dataclasses.replace(again, run=dataclasses.replace(again.run, begin_from=str(run)))
    with pytest.raises(InputError, match=r"begin_from and initial_weights both"):
        train(both, tmp_path / "both", Quiet(), tmp_path)
    bpe = dataclasses.replace(again, data=dataclasses.replace(again.data, tokenizer="bpe:300"))
    with pytest.raises(InputError, match=r"was trained with the tokenizer bytes, not bpe:300"):
        train(bpe, tmp_path / "bpe", Quiet(), tmp_path)
