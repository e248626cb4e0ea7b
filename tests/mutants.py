"""A seeded sample of the mutants of `reference/`, each tried with the tests of its own module.

    uv run --group mutation mutmut run "reference.norm.*"    # makes the mutants of all modules
    uv run --group mutation python tests/mutants.py 150      # the first 150 of the sample; goes on where it was stopped

Most of these tests compile, for which mutmut is too slow: it starts Python and imports JAX for each mutant. Here a mutant is a fork of a
process that has imported them. Results go to mutants/sample.jsonl: name, whether it survived, and seconds of processor time.
"""

import json
import os
import random
import resource
import sys
from pathlib import Path

MUTANTS = Path(__file__).parents[1] / "mutants"
SEED = 14
CPU_SECONDS = 300
"""After which a mutant counts as killed: no module's tests take half as long."""

TESTS: dict[str, tuple[str, ...]] = {
    "errors": ("test_config.py",),
    "config": ("test_config.py", "test_count.py", "test_mesh.py::test_a_mesh_that_does_not_fit_the_model_is_refused_in_one_line"),
    "count": ("test_count.py", "test_count_modules.py"),
    "norm": ("test_norm.py",),
    "fast": ("test_fast.py",),
    "ragged": ("test_fast.py",),
    "attention": ("test_attention.py", "test_goldens.py::test_attention_alone_agrees_with_the_oracle"),
    "feedforward": ("test_feedforward.py", "test_dispatch.py"),
    "dispatch": ("test_dispatch.py", "test_goldens.py::test_dispatch_alone_agrees_with_the_oracle", "test_drops.py"),
    "objective": ("test_objective.py", "test_padding.py", "test_drops.py"),
    "routed": ("test_dispatch.py", "test_drops.py", "routers/test_interface.py", "test_routing_keys.py", "test_mesh.py"),
    "transformer": ("test_vocabulary.py", "test_config.py", "test_router_state.py", "test_transformer.py"),
    "mesh": ("test_mesh.py",),
    "interface": ("routers/test_reinforce.py",),
    "balance": ("routers/test_switch.py", "routers/test_interface.py"),
    "hash": ("routers/test_hash.py", "routers/test_interface.py", "test_config.py", "test_count_modules.py"),
    "switch": ("routers/test_switch.py", "routers/test_interface.py", "test_config.py", "test_count_modules.py"),
    "loss_free": ("routers/test_loss_free.py", "routers/test_interface.py", "test_config.py", "test_router_state.py"),
    "reinforce": ("routers/test_reinforce.py", "routers/test_interface.py", "test_config.py", "test_count_modules.py"),
    "sinkhorn_base": ("routers/test_sinkhorn_base.py", "routers/test_interface.py", "test_config.py", "test_count_modules.py"),
}
"""In `tests/reference/`, by module."""


def sample() -> list[str]:
    """All mutants' names in the seeded order."""
    metas = sorted((MUTANTS / "reference").rglob("*.py.meta"))
    names = sorted(name for meta in metas for name in json.loads(meta.read_text())["exit_code_by_key"])
    random.Random(SEED).shuffle(names)
    return names


def survives(mutant: str) -> tuple[bool, float]:
    """Whether no test of its module fails, and the seconds of processor time that took."""
    child = os.fork()
    if child == 0:
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        os.environ["MUTANT_UNDER_TEST"] = mutant
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        tests = [f"tests/reference/{test}" for test in TESTS[mutant.split(".")[-2]]]
        # Mutants are functions too, and have no plain form.
        tests += ["--deselect", "tests/reference/test_fast.py::test_every_function_has_its_plain_form_here"]
        warnings = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-W", "ignore::ResourceWarning"]
        options = ["-x", "-n", "0", "-p", "no:cacheprovider", *warnings]
        marks = "addopts=-q --strict-markers -m 'not slow and not tpu and not slurm and not extras'"
        os._exit(int(pytest.main([*options, "-o", marks, *tests])))
    _, status, used = os.wait4(child, 0)
    return status == 0, round(used.ru_utime + used.ru_stime, 1)


def main(number: int) -> None:
    """Try the first `number` mutants that are not in the file of results."""
    os.chdir(MUTANTS)
    sys.path.insert(0, str(MUTANTS))
    os.environ["MUTANT_UNDER_TEST"] = ""
    from tests.checks import compile_quickly

    compile_quickly()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(MUTANTS / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    import hypothesis
    import optax
    import scipy.stats

    import reference.objective
    import training.step

    imported = (hypothesis, optax, reference.objective, scipy.stats, training.step)
    print(f"{len(imported)} packages imported once for all mutants")
    results = MUTANTS / "sample.jsonl"
    done = {json.loads(line)["mutant"] for line in results.read_text().splitlines()} if results.exists() else set[str]()
    sound: set[str] = set()
    for mutant in sample()[:number]:
        if mutant not in done:
            module = mutant.rpartition(".")[0]
            if module not in sound and not survives(f"{module}.none")[0]:
                sys.exit(f"the tests of {module} fail without a mutant: every mutant would count as killed")
            sound.add(module)
            survived, seconds = survives(mutant)
            with results.open("a") as file:
                file.write(json.dumps({"mutant": mutant, "survived": survived, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
