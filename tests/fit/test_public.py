"""The public names are there, and importing the package costs nothing."""

import subprocess
import sys

import fit


def test_every_public_name_can_be_had() -> None:
    assert sorted(fit.__all__) == sorted(name for names in fit._HOME.values() for name in names)
    for name in fit.__all__:
        assert getattr(fit, name) is not None


def test_importing_the_package_imports_no_numerics() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fit; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
