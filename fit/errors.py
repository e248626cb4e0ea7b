"""What a fit cannot do, in one line."""

from common.errors import InputError


class NotIdentifiedError(InputError):
    """The runs cannot identify the law: one line saying which law, why, and what would be needed."""
