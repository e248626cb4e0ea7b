"""Training:
from text to a run's folder with its curves; `run.train` is the way in, `sweep` makes grids of it.
"""
