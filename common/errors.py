"""What a user did wrong, or what went wrong, in one line."""


class InputError(ValueError):
    """A request that cannot be met: one line saying what is wrong, where (file, row, column) and what would be right.

    The command line prints the line and exits with code 2.
    """


class WorkError(RuntimeError):
    """The request was right but the work failed (a download, a disk): one line saying what failed and what is left.

    The command line prints the line and exits with code 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message in at most 200 characters, or its type's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
