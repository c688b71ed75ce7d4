"""The tokens that a model can read and write, and their ids."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.files import atomic_write
from utils.special_tokens import END as EOS
from utils.special_tokens import PAD
from utils.special_tokens import START as SOS

SPECIALS = ("<pad>", "<sos>", "<eos>")
# Tokens that group and place others, and have no ink of their own.
INKLESS = frozenset({"{", "}", "^", "_", "&", "\\\\", "\\limits", "\\begin", "\\end", "{matrix}", "{array}"})
# The id of a token outside the vocabulary. It occurs in the truth of test items only, and no prediction equals it.
UNKNOWN = -1


class Vocabulary:
    """Tokens and ids: `<pad>` 0, `<sos>` 1, `<eos>` 2, then the tokens in the given order.

    tokens: the tokens, without these three. Raises DataError for an empty, repeated or reserved token.
    """

    def __init__(self, tokens: Iterable[str]):
        self.tokens: tuple[str, ...] = tuple(tokens)
        self._words = SPECIALS + self.tokens
        self._ids: dict[str, int] = {}
        for token_id, word in enumerate(self._words):
            if word in self._ids:
                raise DataError(f"vocabulary: {word!r} occurs twice, or is reserved ({', '.join(SPECIALS)} are)")
            if word.split() != [word]:
                raise DataError(f"vocabulary: {word!r} is not a token: expected one word without spaces")
            self._ids[word] = token_id

    @classmethod
    def from_file(cls, path: str | Path) -> "Vocabulary":
        """Read `vocabulary.txt`: UTF-8, one token a line, without the three specials. Raises DataError."""
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError:
            raise DataError(f"{path}: not found; expected a vocabulary, one token a line") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: expected UTF-8 text ({error})") from None
        tokens = [line.strip() for line in lines]
        try:
            return cls(token for token in tokens if token)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    @classmethod
    def from_labels(cls, labels: Iterable[Sequence[str]]) -> "Vocabulary":
        """The vocabulary of labels, each a sequence of tokens; sorted, so that the order of the labels is no matter."""
        return cls(sorted({token for tokens in labels for token in tokens}))

    def save(self, path: str | Path) -> None:
        """Write `vocabulary.txt`, whole or not at all."""
        atomic_write(path, "".join(f"{token}\n" for token in self.tokens))

    def extended(self, tokens: Iterable[str]) -> "Vocabulary":
        """This vocabulary with what it lacks of these tokens behind it, sorted: no id changes."""
        return Vocabulary([*self.tokens, *sorted(set(tokens) - set(self.tokens))])

    def __len__(self) -> int:
        """The number of ids, the three specials included."""
        return len(self._words)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def encode(self, tokens: Sequence[str], unknown: int | None = None) -> list[int]:
        """Tokens to ids. A token outside the vocabulary becomes the id `unknown`; without one it raises DataError."""
        ids = [self._ids.get(token, unknown) for token in tokens]
        if None in ids:
            position = ids.index(None)
            raise DataError(f"token {position + 1} of {len(ids)}, {tokens[position]}, is not in the vocabulary")
        return ids

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Ids to tokens: stops at `<eos>`, leaves out `<pad>` and `<sos>`."""
        tokens = []
        for token_id in map(int, ids):  # also accepts arrays and tensors
            if token_id == EOS:
                break
            if token_id == UNKNOWN:
                tokens.append("<unknown>")
            elif token_id not in (PAD, SOS):
                tokens.append(self._words[token_id])
        return tokens

    @property
    def inkless(self) -> tuple[int, ...]:
        """Ids of the tokens without ink of their own."""
        return tuple(token_id for token, token_id in self._ids.items() if token in INKLESS)

    @property
    def braces(self) -> tuple[int, int] | None:
        """Ids of `{` and `}`; None where labels have none."""
        return (self._ids["{"], self._ids["}"]) if "{" in self and "}" in self else None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the tokens and their order: equal where ids mean the same."""
        return hashlib.sha256("\n".join(self.tokens).encode()).hexdigest()
