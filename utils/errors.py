"""What a user can get wrong, or has to know, in one line. The scripts print these without a traceback."""

from typing import NamedTuple

# Of a script that starts worker processes.
NEEDS_GUARD = (
    'Where your own script calls this, its work must stand under `if __name__ == "__main__":`, because every worker '
    "imports the script"
)


class UserError(ValueError):
    """The message names the file, key or image, and what was expected."""


class ConfigError(UserError):
    """Something in the configuration, or on the command line, is not as expected."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""


class LossError(UserError):
    """A loss that is not finite; names stage, epoch and images."""


class MemoryLimitError(UserError):
    """A single image that does not fit into memory; names it, and what would help."""


class WorkerError(UserError):
    """A process that reads images has ended; says how, and what is likely the reason."""


class DataError(UserError):
    """Something that a user can mend in their data; the message names the file, the line, and what was expected."""


class BadItem(NamedTuple):
    """One item that cannot be imported.

    where: the file, and the line where there is one (`train/labels.txt, line 7`).   reason: what is wrong with it.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def list_of(bad: list[BadItem], at_most: int = 5) -> str:
    """The first bad items, a line each, to end a message with."""
    rest = [f"… and {len(bad) - at_most} more"] if len(bad) > at_most else []
    return "".join(f"\n  {line}" for line in [*bad[:at_most], *rest])
