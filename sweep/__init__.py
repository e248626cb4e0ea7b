"""Many runs: a grid of them, as processes of this machine or as jobs of SLURM; resumable.

grid.py      a TOML file -> runs
run.py       one run: where it lies, how far it is, how it ended
worker.py    the process that trains it
local.py     processes of this machine, a few at a time
slurm.py     a job array
sweep.py     start, watch, stop, merge
table.py     what is shown meanwhile
merge.py     one curves.csv
"""
