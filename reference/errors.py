"""What a user did wrong, in one line: what, where, and what would be right."""


class ConfigError(ValueError):
    """A configuration that describes no model: the message names the field and says the fix."""
