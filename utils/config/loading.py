"""config.yaml and the command line -> a Config. Whatever is wrong is told at once, each error with its key.

The file's top level is the configuration itself plus two tables of overrides, `presets` and `datasets`.
Later wins: the file, the preset, the data set's own entry, the weights of --init, then `--set KEY=VALUE` and the other
flags.
A run's own config.yaml (checkpoints/RUN/config.yaml) is such a file, too.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from utils.config.schema import Config, Location, stage_errors
from utils.errors import ConfigError
from utils.project import for_config

# Keys by their names in older files, and what a run's folder keeps beside its configuration.
FORMER_KEYS = {
    "average_last": "swa_epochs",
    "picture_scale": "image_scale",
    "pictures": "images",
    "validation_pictures": "validation_images",
}
ONLY_IN_RUNS = ("batching",)
TABLES = ("model", "data", "presets", "datasets")  # looked into before the schema has seen them
MAX_NODES = 100_000  # of a YAML file; config.yaml has some hundred
FREE_WITH_WEIGHTS = ("dropout", "recompute")  # keys of a network that its weights do not depend on


@dataclasses.dataclass(frozen=True)
class WeightsSettings:
    """What the weights that a run starts from say about its configuration.

    path: theirs, as the configuration keeps it.   settings: values of the sections `model` and `data`.
    """

    path: str
    settings: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A value from the command line. flag: how it was typed, such as `--set stages.0.epochs`."""

    flag: str
    location: Location


def load_config(
    path: str | Path,
    dataset: str | None,
    preset: str | None = None,
    assignments: Sequence[str] = (),
    device: str | None = None,
    minutes: str | None = None,
    weights: WeightsSettings | None = None,
) -> Config:  # more than 7 parameters: each is a flag of the training scripts
    """Read a config file, apply the preset, the data set's entry, the assignments and flags, and check the result.

    dataset: None takes the file's own.   assignments: `KEY=VALUE`.   weights: that the run starts from.
    Raises ConfigError with a line for every error.
    """
    values, presets, datasets = read_config(path)
    values["dataset"] = dataset or values.get("dataset")
    for _, override in _overrides(path, values["dataset"], preset, presets, datasets, weights):
        values = merge(values, override)
    if weights:  # whole tables: a key that the weights do not name has its default, not the file's value
        values["model"] |= copy.deepcopy(weights.settings["model"])
    assigned = [set_value(values, assignment) for assignment in assignments]
    if any(one.location == ("init",) for one in assigned):
        raise ConfigError("--set init: expected --init PATH, which also takes over the network's sizes")
    data = values.get("data")
    if any(one.location == ("data", "root") for one in assigned) and isinstance(data, dict):
        data |= {"root": for_config(data["root"])} if isinstance(data.get("root"), str) else {}
    if minutes is not None:
        assigned.append(dataclasses.replace(set_value(values, f"training.minutes={minutes}"), flag="--minutes"))
    if device:
        values["device"] = device
        assigned.append(Assignment("--device", ("device",)))
    if weights:
        _check_fit(weights, values, assigned)
    return parse_config(values, str(path), assigned)


def _check_fit(weights: WeightsSettings, values: dict, assigned: Sequence[Assignment]) -> None:
    """Raises ConfigError where the command line asks for a network that the weights are not of."""
    wrong = []
    for key, theirs, asked in differences(weights.settings["model"], values["model"], "model"):
        location = tuple(key.split("."))
        is_theirs = location[1] in weights.settings["model"] and location[-1] not in FREE_WITH_WEIGHTS
        if is_theirs and (flag := _typed(location, assigned)):
            wrong.append(f"{flag}: {weights.path} was trained with {theirs!r}, and fits no network with {asked!r}")
    if wrong:
        raise ConfigError("; ".join(wrong))


def overridden_keys(
    path: str | Path, dataset: str, preset: str | None = None, weights: WeightsSettings | None = None
) -> dict[str, list[str]]:
    """Which keys of the file itself have no effect, because the preset, the data set's entry or the weights to start
    from have another value."""
    values, presets, datasets = read_config(path)
    found = {}
    for name, override in _overrides(path, dataset, preset, presets, datasets, weights):
        merged = merge(values, override)
        found[name] = [key for key, before, now in differences(values, merged) if before is not None and before != now]
        values = merged
    return {name: keys for name, keys in found.items() if keys}


def _overrides(
    path: str | Path,
    dataset: str | None,
    preset: str | None,
    presets: dict,
    datasets: dict,
    weights: WeightsSettings | None,
) -> Iterator[tuple[str, dict]]:
    own = datasets.get(dataset) or {}
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: datasets.{dataset}: expected a table of keys, got {own!r}")
    own = dict(own)
    preset = preset or own.get("preset")
    own.pop("preset", None)
    if preset and preset != "full":
        if not isinstance(preset, str) or not isinstance(presets.get(preset, {}), dict):
            raise ConfigError(f"{path}: preset {preset!r}: expected the name of a table of keys in presets")
        if preset not in presets:
            raise ConfigError(f"--preset {preset}: unknown; {path} has: {', '.join(['full', *presets])}")
        yield f"preset {preset}", presets[preset]
    if own:
        yield f"the entry of {dataset} in datasets", own
    if weights:
        yield f"--init {weights.path}", weights.settings | {"init": weights.path}


# --- files ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """A safe loader that takes no key twice; YAML forbids it, and PyYAML would take the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"line {line}: the key {key.value} stands in line {lines[key.value]} already")
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> yaml.Node | None:
        """What the file says, unless its aliases (`*name`) make it grow out of all proportion, or hold themselves."""
        whole = super().get_single_node()
        rest, seen = [whole], 0
        while rest:
            node, seen = rest.pop(), seen + 1
            if seen > MAX_NODES:
                raise yaml.YAMLError(f"more than {MAX_NODES:,} values, or aliases without an end")
            if isinstance(node, yaml.SequenceNode):
                rest += node.value
            elif isinstance(node, yaml.MappingNode):
                rest += [one for pair in node.value for one in pair]
        return whole


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError, whatever is wrong with it."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # of any kind: a tag such as !!int makes PyYAML trust in what follows it
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def read_config(path: str | Path) -> tuple[dict, dict, dict]:
    """The values of a config file, its presets, and its entries of data sets."""
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected a table of keys")
    for table in TABLES:
        if not isinstance(values.get(table) or {}, dict):
            raise ConfigError(f"{path}: {table}: expected a table of keys, got {values[table]!r}")
    values = with_present_keys(values)
    for name in ONLY_IN_RUNS:
        values.pop(name, None)
    return values, values.pop("presets", None) or {}, values.pop("datasets", None) or {}


def with_present_keys(values: Any) -> Any:
    """The same values, with each key of FORMER_KEYS under its present name, unless it stands beside that one."""
    if isinstance(values, list):
        return [with_present_keys(value) for value in values]
    if not isinstance(values, dict):
        return values
    present = {}
    for name, value in values.items():
        now = FORMER_KEYS.get(name, name)
        present[name if now in values else now] = with_present_keys(value)
    return present


def of_this_version(kept: dict) -> dict:
    """A kept configuration as this version writes it: present names of keys, and defaults of keys that are new.

    One of a version whose keys are no more stays as it is, but for the names.
    """
    kept = with_present_keys(kept)
    try:
        return kept | parse_config({key: kept[key] for key in kept if key not in ONLY_IN_RUNS}).as_dict()
    except ConfigError:
        return kept


# --- overrides ------------------------------------------------------------------------------------------------


def merge(base: Any, override: Any) -> Any:
    """Tables merge key by key; a table over a list of named entries (`stages`) merges by name; the rest is replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return {**base, **{name: merge(base.get(name), value) for name, value in override.items()}}
    if isinstance(base, list) and isinstance(override, dict):
        merged = list(base)
        for name, value in override.items():
            index = _index(merged, name, f"override of {name}")
            merged[index] = merge(merged[index], value)
        return merged
    return override


def set_value(values: dict, assignment: str) -> Assignment:
    """Apply one `KEY=VALUE`, such as `stages.2.epochs=10` or `batch.max_pixels=2e6`, in place."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE")
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {key}: not a YAML value: {text}") from error
    *path, last = (FORMER_KEYS.get(part, part) for part in key.split("."))
    table: Any = values
    location: list[str | int] = []
    for part in path:
        if isinstance(table, dict):  # a new key is for the schema to judge, which knows what is allowed where
            table = table.setdefault(part, {})
            location.append(part)
        else:
            location.append(_index(table, part, f"--set {key}"))
            table = table[location[-1]]
    location.append(last if isinstance(table, dict) else _index(table, last, f"--set {key}"))
    table[location[-1]] = value
    return Assignment(f"--set {key}", tuple(location))


def _index(items: Any, part: str, key: str) -> int:
    """The index of an entry of a list, by its number or by its `name`."""
    if not isinstance(items, list):
        raise ConfigError(f"{key}: there is nothing below {items!r}, so no {part}")
    for index, item in enumerate(items):
        if part == str(index) or (isinstance(item, dict) and item.get("name") == part):
            return index
    raise ConfigError(f"{key}: there is no entry {part}; there are {len(items)}, counted from 0")


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two configurations differ, with the value in each."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        pairs = [(name, before.get(name), now.get(name)) for name in names]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(str(index), a, b) for index, (a, b) in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [(key, before, now)]
    prefix = f"{key}." if key else ""
    return [different for name, a, b in pairs for different in differences(a, b, prefix + name)]


# --- checks, and errors in the reader's words -------------------------------------------------------------------


def parse_config(values: dict, source: str = "config", assigned: Sequence[Assignment] = ()) -> Config:
    """Plain values as a Config. Raises ConfigError with a line for every error.

    source: the file, in front of errors.   assigned: which values come from the command line, and how they were typed.
    """
    try:
        config = TypeAdapter(Config).validate_python(values)
        errors = stage_errors(config)
    except ValidationError as invalid:
        errors = [_explained(error) for error in invalid.errors()]
    if errors:
        typed = [_typed(location, assigned) for location, _ in errors]
        flags = [f"{flag}: {why}" for flag, (_, why) in zip(typed, errors, strict=True) if flag]
        rest = [f"{key_of(where) or 'the file'}: {why}" for flag, (where, why) in zip(typed, errors, strict=True)
                if not flag]  # fmt: skip
        raise ConfigError("; ".join(flags + ([f"{source}: " + "; ".join(rest)] if rest else [])))
    return config


def key_of(location: Location) -> str:
    """`stages[0].epochs`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _typed(location: Location, assigned: Sequence[Assignment]) -> str:
    """The flag that an error at this location comes from, with the rest of the location; "" for the file."""
    for one in reversed(assigned):
        common = min(len(location), len(one.location))
        if location[:common] == one.location[:common]:
            rest = key_of(location[common:])
            return one.flag + (f" ({rest})" if rest else "")
    return ""


def _explained(error: dict) -> tuple[Location, str]:
    """What pydantic found: where, and what was expected there."""
    location, kind, value = tuple(error["loc"]), error["type"], error["input"]
    if kind == "missing":
        return location, "missing"
    if kind == "unexpected_keyword_argument":
        return location, _unknown(location)
    choices = error.get("ctx", {}).get("expected", "")  # 'gru' or 'transformer'
    expected = {
        "expected": error["msg"],
        "literal_error": "one of " + choices.replace(" or ", ", ").replace("'", ""),
        "tuple_type": "a list",
        "dict_type": "a table of names and numbers",
        "dataclass_type": "a table of keys",
    }.get(kind, error["msg"])
    # The distortions are described once, and each stage says whether it has them.
    hint = "; a stage is trained without by stages.NAME.augment=false" if location == ("augment",) else ""
    return location, f"expected {expected}, got {value!r}{hint}"


def _unknown(location: Location) -> str:
    """What is said of a key that does not exist: the likeliest one meant, and those that exist beside it."""
    *tables, name = location
    known = [each.name for each in dataclasses.fields(_table_at(tables))]
    initials = [key for key in known if "".join(word[0] for word in key.split("_")) == name]
    elsewhere = [key for key in _all_keys(Config) if key.rpartition(".")[2] == name]
    meant = initials or difflib.get_close_matches(str(name), known, 1) or elsewhere
    return "unknown key" + (f"; did you mean {meant[0]}?" if meant else "") + f"; known here: {', '.join(known)}"


def _table_at(location: Sequence[str | int]) -> type:
    table = Config
    for part in location:
        if isinstance(part, str):
            table = _table_of(typing.get_type_hints(table)[part]) or table
    return table


def _table_of(kind: Any) -> type | None:
    """The table that a key holds, or a list of it; None where it holds a plain value."""
    kind = (typing.get_args(kind) or [kind])[0] if typing.get_origin(kind) is tuple else kind
    return kind if dataclasses.is_dataclass(kind) else None


def _all_keys(table: type, prefix: str = "") -> Iterator[str]:
    for name, kind in typing.get_type_hints(table).items():
        below = _table_of(kind)
        if below:
            yield from _all_keys(below, f"{prefix}{name}.")
        else:
            yield prefix + name
