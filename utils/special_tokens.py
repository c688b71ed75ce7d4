"""Ids that every vocabulary keeps for itself. `dataset` and `models` both take them from here."""

PAD, START, END = 0, 1, 2
