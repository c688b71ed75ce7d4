"""Where this project's own files are, in whatever folder one works."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG, DATASETS, CHECKPOINTS = ROOT / "config.yaml", ROOT / "datasets", ROOT / "checkpoints"


def from_root(path: str | Path) -> Path:
    """A path of a configuration: a relative one begins at the folder of the scripts."""
    return ROOT / Path(path).expanduser()


def for_config(path: str | Path) -> str:
    """A path that somebody typed, as a configuration keeps it, so that it means the same from any folder."""
    whole = Path(path).expanduser().absolute()
    return (whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else whole).as_posix()
