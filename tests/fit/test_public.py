"""The public names are there, and importing the package costs nothing."""

import subprocess
import sys

import pytest

import fit


def test_every_public_name_can_be_had() -> None:
    for name in fit.__all__:
        assert getattr(fit, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fit_everything"):
        _ = fit.fit_everything


def test_importing_the_package_imports_no_numerics() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fit; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
