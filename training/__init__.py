"""Training, from text to a run's folder with its curves.

`run.train` is the entry point; the package `sweep` trains grids of runs.
"""
