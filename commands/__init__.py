"""The subcommands of `cli.py`: one typed dataclass each, with one call into the library.

Nothing here imports numerics when it is imported: `cli.py --help` is there at once.
"""
