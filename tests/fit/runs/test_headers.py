"""Headers: which are recognised, what is asked where two could be one column, and columns as expressions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError
from fit.runs import load_runs
from fit.runs.headers import parse_columns
from tests.fit.runs.samples import only


def test_headers_of_other_people_are_mapped(write: Callable[..., Path]) -> None:
    path = write("val_loss,params,experts,loss_validation\n3,1e6,8,9\n")
    runs = load_runs(path, columns=parse_columns("loss_validation=val_loss,N=params, num_experts = experts"))
    assert runs.loss.tolist() == [3]
    assert runs["dense_parameter_count"].tolist() == runs["N"].tolist() == [1e6]
    assert runs["num_experts"].tolist() == [8]
    # The file's own column of that name is not lost silently.
    assert runs["loss_validation (set aside)"].tolist() == [9]
    assert "loss_validation" in only(runs, "column-set-aside")
    assert load_runs(path, target="val_loss").loss.tolist() == [3]
    assert load_runs(path, target="loss_c4", columns={"loss": "val_loss"}).loss.tolist() == [3]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"loss": "vall_loss"}, "no column 'vall_loss'; did you mean val_loss"),
        ({"loss": "val_loss", "N": "params", "dense_parameter_count": "params"}, "'N' is asked for twice"),
        ({"loss": "val_loss", "N": "params", "n_params": "params"}, "'N' is asked for twice"),
        ({"loss": "val_loss", "N": "params*tokens"}, "no column 'tokens'"),
        ({"loss": "val_loss", "N": "D*2", "D": "N/2"}, "no column '[ND]'"),
        ({"loss": "val_loss", "router": "1+1"}, "no column '1[+]1'"),
        ({"loss": "val_loss", "run": "params+nothing"}, "no column 'nothing'"),
        ({"loss": "val_loss+"}, "--columns 'val_loss[+]'"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(write: Callable[..., Path], columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_runs(write("val_loss,params\n3,1e6\n"), columns=columns)


@pytest.mark.parametrize("text", ["", "loss", "loss=", "=x", "loss=a,loss=b", "loss=a,", '"loss=a', "loss=a\nb"])
def test_a_mapping_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--columns"):
        parse_columns(text)
    assert parse_columns('"loss=val, loss",N=a=b') == {"loss": "val, loss", "N": "a=b"}
