"""What a user did wrong, in one line: what, where, and what would be right."""

from common.errors import InputError


class ConfigError(InputError):
    """A configuration that describes no model: the message names the field and says the fix."""
