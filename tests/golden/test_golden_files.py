"""The committed golden outputs: what the script makes, in bytes that the script would write, small, and loaded as they are."""

import json

import numpy as np
import pytest

from golden.cases import FOLDER, INDEX, Case, cases, load
from golden.make import files, index, narrowed, stored
from golden.recipes import all_cases


@pytest.fixture(scope="module")
def made() -> list[Case]:
    """Every case, made anew."""
    return all_cases()


def test_the_committed_cases_are_those_that_the_script_makes(made: list[Case]) -> None:
    assert cases() == [case.name for case in made]
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.npz" for name in cases()} | {INDEX.name, ".gitattributes"}


def test_the_committed_index_is_byte_for_byte_what_the_script_writes(made: list[Case]) -> None:
    assert INDEX.read_bytes() == index(made)


def test_the_committed_inputs_weights_and_choices_are_exactly_what_the_script_makes(made: list[Case]) -> None:
    for fresh in made:
        committed = load(fresh.name)
        assert list(committed.inputs) == list(fresh.inputs)
        assert list(committed.weights) == list(fresh.weights)
        assert list(committed.outputs) == list(fresh.outputs)
        discrete = {name: array for name, array in fresh.outputs.items() if array.dtype.kind != "f"}
        for name, array in (fresh.inputs | fresh.weights | discrete).items():
            other = (committed.inputs | committed.weights | committed.outputs)[name]
            assert array.dtype == other.dtype, f"{fresh.name}: {name}"
            np.testing.assert_array_equal(array, other, f"{fresh.name}: {name}")


def test_the_committed_outputs_are_what_the_script_makes(made: list[Case]) -> None:
    for fresh in made:
        committed = load(fresh.name)
        for name, array in fresh.outputs.items():
            # Exact where the files were written. Elsewhere NumPy's exponentials and products may differ in the last bit, 1e-16, which
            # logits of 1e3 and sums of a few hundred terms make 1e-12.
            np.testing.assert_allclose(committed.outputs[name], array, rtol=1e-12, atol=1e-12, err_msg=f"{fresh.name}: {name}")


@pytest.mark.parametrize("name", cases())
def test_a_committed_file_is_byte_for_byte_what_the_script_writes_for_its_arrays(name: str) -> None:
    assert (FOLDER / f"{name}.npz").read_bytes() == stored(load(name))


def test_the_script_writes_the_same_bytes_again(made: list[Case]) -> None:
    again = files()
    assert {name: content for name, content in again.items() if name != INDEX.name} == {f"{case.name}.npz": stored(case) for case in made}


def test_together_the_files_are_smaller_than_five_quarters_of_a_megabyte() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_250_000


def test_a_case_is_loaded_with_its_configuration_and_float64_arrays() -> None:
    case = load("router_switch_k2")
    entry = json.loads(INDEX.read_bytes())["router_switch_k2"]
    assert {"kind": case.kind, **case.config} == entry
    assert case.weights["router/weight"].dtype == case.inputs["x"].dtype == case.outputs["training/gates"].dtype == np.float64
    assert case.outputs["training/experts"].dtype == np.int64


def test_numbers_that_float16_does_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="w of c is not exact in float16"):
        narrowed("c", "w", np.array([0.1]))
