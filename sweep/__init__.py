"""A grid of training runs, as processes of this machine or as jobs of SLURM; resumable.

grid.py     a TOML file -> runs
run.py      a run: its folder, its log, how it ended
local.py    processes of this machine, a few at a time
slurm.py    a job array
sweep.py    train what is not done, and merge the curves
"""
