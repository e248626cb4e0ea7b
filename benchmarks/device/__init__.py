"""The parts of `benchmarks.accelerator`: each runs in a process of its own, one item after the other (`worker.py`)."""
