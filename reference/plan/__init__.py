"""What a TPU's compiler makes of the model, ahead of time and without a TPU: collectives, FLOPs, memory.

    request.py     what to compile: a routed layer or a training step, on which chips; no JAX
    programs.py    the program and the shapes it is compiled for
    hlo.py         collectives in the compiled program
    compiled.py    one request compiled, in a process of its own: libtpu reads its settings when it starts
    table.py       results as text, Markdown and JSON; the list that `docs/plan.md` holds

libtpu is opt-in (`uv run --group tpu cli.py plan ...`): its wheel has the compiler, and is large.
"""
