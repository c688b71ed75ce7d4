"""Reading a pickle that may come from anywhere: NumPy arrays and plain containers, and nothing else.

A pickle is a program: opened plainly, it can run anything. This reader looks up only the handful of names that arrays
are made of, so a pickle that asks for another one is refused before anything of it has run.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError


def _encode(text: str, encoding: str) -> bytes:
    """How the old pickle protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as {encoding}; expected latin1")
    return text.encode("latin1")


# The functions that build an array (protocols to 4, and 5) and a single number. NumPy keeps them in private modules,
# numpy.core before version 2 and numpy._core since, so they are taken from what NumPy itself writes into a pickle.
_BUILDERS = {
    ("multiarray", "_reconstruct"): np.empty(1).__reduce__()[0],
    ("numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
    ("multiarray", "scalar"): np.float64(1).__reduce__()[0],
}
_KNOWN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.core.{module}", name): builder for (module, name), builder in _BUILDERS.items()},
    **{(f"numpy._core.{module}", name): builder for (module, name), builder in _BUILDERS.items()},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; expected NumPy arrays and plain containers only"
            )
        return _KNOWN[module, name]


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of arrays and plain containers, of Python 2 or 3 and NumPy 1 or 2.

    Raises DataError, naming the file, when it asks for anything else, is truncated, or is no pickle.
    """
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()  # latin1: how Python 2 pickled an array's bytes
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # of any kind: a broken pickle raises whatever its broken instructions lead to
        raise DataError(f"{path}: not a readable pickle: {error or type(error).__name__}") from None
