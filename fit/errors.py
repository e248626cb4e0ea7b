"""What a user did wrong, in one line."""


class InputError(ValueError):
    """A request that cannot be met: one line saying what is wrong, where (file, row, column) and what would be right.

    The command line prints the line and exits with code 2.
    """


class NotIdentifiedError(InputError):
    """The runs cannot identify the law: one line saying which law, why, and what would be needed."""


class WorkError(RuntimeError):
    """The request was right but the work failed (a download, a disk): one line saying what failed and what is left.

    The command line prints the line and exits with code 1.
    """
