"""What the model takes on TPUs, ahead of time and without one: by closed forms, and by what their
compiler makes of it.

    chips.py       the chips as published, and how a slice of them is linked
    request.py     what is asked: a routed layer or a training step, on which chips
    memory.py      what a step keeps in memory, by closed form
    traffic.py     FLOPs and bytes of a step by closed form
    times.py       the least time of each, of a step, of a run
    outlook.py     all of that together, from closed forms or from a compiled step; none of these imports JAX
    programs.py    the program and the shapes it is compiled for
    hlo.py         collectives in the compiled program
    compiled.py    one request compiled, in a process of its own: libtpu reads its settings when it starts
    table.py       results as text, Markdown and JSON; the list that `docs/plan.md` holds

libtpu is opt-in (`uv run --group tpu cli.py plan ...`): its wheel has the compiler, and is large.
"""
