"""Grids of training runs, as local processes or as SLURM jobs; resumable.

grid.py     a TOML file -> runs
run.py      a run: its folder, its log, how it ended
local.py    local processes, a few at a time
slurm.py    a job array
sweep.py    train the unfinished runs, and merge the curves
"""
