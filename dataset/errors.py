"""What is wrong with a user's data, in the user's words."""

from typing import NamedTuple


class DataError(ValueError):
    """Something that a user can mend in their data; the message names the file, the line, and what was expected."""


class BadItem(NamedTuple):
    """One item that cannot be imported.

    where: the file, and the line where there is one (`train/labels.txt, line 7`).   reason: what is wrong with it.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"
