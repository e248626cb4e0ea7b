"""What a model takes on TPUs, ahead of time and without one: by closed forms, and by what the TPUs'
compiler makes of it.

    chips.py       the chips as published, and how a slice of them is linked
    request.py     what is asked: a routed layer, a training step or an evaluation, on which chips
    memory.py      memory of a step, by closed form
    traffic.py     FLOPs and bytes of a step or an evaluation, by closed form
    times.py       the least time of each, of a step, of a run
    outlook.py     a step and a run: all of these, from closed forms or from a compiled step
    programs.py    the programs, and the shapes they are compiled for
    hlo.py         collectives in a compiled program
    compiled.py    one request compiled, in a process of its own
    table.py       results as text, Markdown and JSON; the list of programs in `docs/plan.md`

Closed forms need no compiler. libtpu is opt-in (`uv run --group tpu cli.py plan ...`): its wheel
has the compiler, and is large.
"""
