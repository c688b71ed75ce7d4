"""What a user can get wrong, or has to know, in one line. The scripts print these without a traceback."""


class UserError(ValueError):
    """The message names the file, key or picture, and what was expected."""


class ConfigError(UserError):
    """Something in the configuration, or on the command line, is not as expected."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""


class LossError(UserError):
    """A loss that is not finite; names stage, epoch and pictures."""


class MemoryLimitError(UserError):
    """A single picture that does not fit into memory; names it, and what would help."""
