"""config.yaml as frozen dataclasses. Whatever is wrong with it is told at once, each error with its key.

The file's top level is the configuration itself plus two tables of overrides, `presets` and `datasets`.
Later wins: the file, the preset, the data set's own entry, then `--set KEY=VALUE`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from utils.errors import ConfigError


def positive(**rest):
    return field(metadata={"check": lambda value: value > 0, "expected": "a positive {}"}, **rest)


def not_negative(**rest):
    return field(metadata={"check": lambda value: value >= 0, "expected": "a non-negative {}"}, **rest)


def share(**rest):
    return field(metadata={"check": lambda value: 0 <= value <= 1, "expected": "a {} between 0 and 1"}, **rest)


PositiveRange = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where pictures come from and how large they may be."""

    root: str
    picture_scale: float = positive()
    max_height: int = positive()
    max_width: int = positive()
    validation_share: float = share()
    workers: int = not_negative()


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many pictures a step sees: a fixed count (train_stage.py), or a budget (train_stage_ABS.py)."""

    batch_size: int = positive()
    pool: int = positive()
    max_pixels: int | Literal["auto"] = positive()
    cpu_max_pixels: int = positive()
    max_samples: int | None = positive()


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """DenseNet-B: Huang et al., CVPR 2017."""

    growth: int = positive()
    layers: tuple[int, ...]
    compression: float = share()
    dropout: float = share()
    recompute: bool = False


@dataclass(frozen=True, kw_only=True)
class GRUConfig:
    """Attention GRU with coverage: Zhang et al., Pattern Recognition 2017; Li et al. (CAN), ECCV 2022."""

    hidden: int = positive()
    embedding: int = positive()
    attention: int = positive()
    coverage_kernel: int = positive()
    dropout: float = share()


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Transformer with coverage, both directions: Zhao and Gao (CoMER), ECCV 2022."""

    width: int = positive()
    heads: int = positive()
    layers: int = positive()
    feed_forward: int = positive()
    dropout: float = share()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    encoder: EncoderConfig
    decoder: Literal["gru", "transformer"]
    counting: int = not_negative()
    gru: GRUConfig
    transformer: TransformerConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What all stages share."""

    optimizer: Literal["adamw", "sgd", "adadelta"]
    weight_decay: float = not_negative()
    momentum: float = share()
    warmup_epochs: float = not_negative()
    final_learning_rate: float = share()
    clip_norm: float = positive()
    ema: float = share()
    swa_epochs: int = not_negative()
    label_smoothing: float = share()
    validate_every: int = positive()
    validation_pictures: int = positive()
    save_minutes: float = positive()
    minutes: float | None = positive(default=None)
    clock: Literal["wall", "cpu", "steps"] = "wall"
    step_seconds: float = positive(default=1.0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False


PICTURES = ("standard", "pairs", "ink")
PARTS = ("standard_encoder", "handwritten_encoder", "decoder")
LOSSES = (
    "label",
    "counting",
    "attention",
    "glimpse_cosine",
    "glimpse_contrast",
    "distribution",
    "feature_map",
)
PAIR_LOSSES = LOSSES[3:]


@dataclass(frozen=True, kw_only=True)
class StrokesConfig:
    """Ranges of the distortions of pen strokes, where a data set has them; the defaults leave them as they are."""

    pen: tuple[int, int] = positive(default=(3, 3))
    jitter: float = not_negative(default=0.0)
    shift: float = not_negative(default=0.0)
    scale: PositiveRange = positive(default=(1.0, 1.0))
    slant: float = not_negative(default=0.0)
    smoothing: float = not_negative(default=0.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the distortions of ink; [1, 1] and 0 leave it as it is."""

    scale: PositiveRange
    stretch: PositiveRange
    rotation: float = not_negative()
    shear: float = not_negative()
    perspective: float = not_negative()
    distortion: float = not_negative()
    thickness: float = share()
    contrast: float = share()
    blur: float = not_negative()
    cut_outs: int = not_negative()
    cut_out_size: int = positive()
    strokes: StrokesConfig = StrokesConfig()


@dataclass(frozen=True, kw_only=True)
class ExpressionsConfig:
    """Labels beside those of the training split: so many new ones, made from their trees."""

    synthetic: int = not_negative(default=0)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Standard images shown among the ink: so many for each picture of ink, in the first epoch and in the last."""

    first: float = not_negative(default=0.0)
    last: float = not_negative(default=0.0)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training. A stage is data: which pictures, what learns, from which losses, for how long."""

    name: str
    pictures: Literal["standard", "pairs", "ink"]
    trains: tuple[Literal["standard_encoder", "handwritten_encoder", "decoder"], ...]
    losses: dict[str, float]
    epochs: int = positive()
    learning_rate: float = positive()
    share: float | None = positive(default=None)
    styles: Literal["standard", "varied"] = "varied"
    expressions: ExpressionsConfig = ExpressionsConfig()
    replay: ReplayConfig = ReplayConfig()
    augment: bool = False
    starts_from_standard: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str
    seed: int
    device: str
    threads: int | Literal["auto"] = positive(default="auto")
    data: DataConfig
    batch: BatchConfig
    model: ModelConfig
    augment: AugmentConfig
    training: TrainingConfig
    stages: tuple[StageConfig, ...]

    def domains(self) -> tuple[str, ...]:
        """The kinds of pictures that need an encoder: the handwritten one always, for it is what the run is for."""
        needs_standard = any(stage.pictures != "ink" for stage in self.stages)
        return ("standard", "handwritten") if needs_standard else ("handwritten",)

    def as_dict(self) -> dict:
        """The configuration as plain values, as a run keeps it."""
        return _plain(self)


def _plain(value):
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


# --- from plain values to dataclasses -----------------------------------------------------------------------


def _number(value: Any) -> Any:
    """YAML 1.1, as PyYAML reads it, takes `1e-4` for a string: the numbers people write are read as numbers."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _parse(kind: Any, value: Any, key: str, errors: list[str], check: dict) -> Any:
    """`value` as `kind`, or a line in `errors` that names `key`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)

    def wrong(expected: str) -> None:
        errors.append(f"{key}: expected {expected}, got {value!r}")

    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, key, errors)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        literals = [option for option in arguments if typing.get_origin(option) is Literal]
        if any(value in typing.get_args(option) for option in literals if isinstance(value, str)):
            return value
        plain = [option for option in arguments if option is not type(None) and option not in literals]
        return _parse(plain[0], value, key, errors, check)
    if origin is Literal:
        if value not in arguments:
            wrong("one of " + ", ".join(map(str, arguments)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return wrong("a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            return wrong(f"a list of {len(arguments)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        items = zip(kinds, value, strict=True)
        return tuple(_parse(kind, item, f"{key}[{i}]", errors, check) for i, (kind, item) in enumerate(items))
    if origin is dict:
        if not isinstance(value, dict):
            return wrong("a table of names and numbers")
        return {str(name): _parse(arguments[1], item, f"{key}.{name}", errors, check) for name, item in value.items()}

    expected, is_allowed = check.get("expected", "a {}"), check.get("check", lambda _: True)
    if kind is bool:
        return value if isinstance(value, bool) else wrong("true or false")
    if kind is str:
        return value if isinstance(value, str) and value else wrong("a text")
    number = _number(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    if kind is int:
        if not is_number or number != int(number) or not is_allowed(number):
            return wrong(expected.format("integer").replace("a integer", "an integer"))
        return int(number)
    if not is_number or not is_allowed(number):
        return wrong(expected.format("number"))
    return float(number)


def _parse_dataclass(kind: type, value: Any, key: str, errors: list[str]) -> Any:
    if not isinstance(value, dict):
        errors.append(f"{key or 'the file'}: expected a table of keys, got {value!r}")
        return None
    prefix = f"{key}." if key else ""
    hints = typing.get_type_hints(kind)
    names = {each.name: each for each in dataclasses.fields(kind)}
    errors += [f"{prefix}{name}: unknown key; known here: {', '.join(names)}" for name in value if name not in names]
    parsed = {}
    for name, each in names.items():
        if name in value:
            parsed[name] = _parse(hints[name], value[name], prefix + name, errors, dict(each.metadata))
        elif each.default is dataclasses.MISSING:
            errors.append(f"{prefix}{name}: missing")
            parsed[name] = None
    return kind(**parsed)


def _check_stages(config: Config, errors: list[str]) -> None:
    """What the types cannot say: which losses and parts make sense for which pictures."""
    seen = set()
    for i, stage in enumerate(config.stages):
        key = f"stages[{i}]"
        if stage.name in seen:
            errors.append(f"{key}.name: {stage.name!r} names two stages; a run keeps its files by stage name")
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            errors.append(f"{key}.name: expected letters, digits, - and _, got {stage.name!r}")
        seen.add(stage.name)
        if not stage.trains:
            errors.append(f"{key}.trains: expected at least one of {', '.join(PARTS)}")
        for name, weight in stage.losses.items():
            if name not in LOSSES:
                errors.append(f"{key}.losses.{name}: unknown loss; known: {', '.join(LOSSES)}")
            elif name in PAIR_LOSSES and stage.pictures != "pairs":
                errors.append(f"{key}.losses.{name}: needs `pictures: pairs`, this stage has {stage.pictures}")
            elif name == "counting" and not config.model.counting:
                errors.append(f"{key}.losses.counting: needs `model.counting` above 0")
            if weight < 0:
                errors.append(f"{key}.losses.{name}: expected a non-negative number, got {weight}")
        if not any(stage.losses.values()):
            errors.append(f"{key}.losses: expected at least one loss with a weight")
        unseen = "handwritten_encoder" if stage.pictures == "standard" else "standard_encoder"
        if unseen in stage.trains:
            errors.append(f"{key}.trains: {unseen} does not see `pictures: {stage.pictures}`")
        is_replayed = stage.replay.first > 0 or stage.replay.last > 0
        if is_replayed and stage.pictures != "ink":
            errors.append(f"{key}.replay: standard images among ink; expected `pictures: ink`, got {stage.pictures}")
        if stage.expressions.synthetic and not (stage.pictures == "standard" or is_replayed):
            errors.append(f"{key}.expressions.synthetic: new expressions have no ink; expected `pictures: standard`")
    shares = [stage.share is not None for stage in config.stages]
    if any(shares) and not all(shares):
        missing = [f"stages[{i}].share" for i, has_one in enumerate(shares) if not has_one]
        errors.append(f"{', '.join(missing)}: missing; where one stage has a share of the time, all need one")
    if not config.stages:
        errors.append("stages: expected at least one stage")


# --- files, overrides ---------------------------------------------------------------------------------------


def merge(base: Any, override: Any) -> Any:
    """Tables merge key by key; a table over a list of named entries (`stages`) merges by name; the rest is replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return {**base, **{name: merge(base.get(name), value) for name, value in override.items()}}
    if isinstance(base, list) and isinstance(override, dict):
        merged = list(base)
        for name, value in override.items():
            i = _index(merged, name, f"override of {name}")
            merged[i] = merge(merged[i], value)
        return merged
    return override


def set_value(values: dict, assignment: str) -> None:
    """Apply one `KEY=VALUE`, such as `stages.2.epochs=10` or `batch.max_pixels=2e6`, in place."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: not a YAML value: {text}") from error
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        if isinstance(place, dict):  # a new key is for the parser to judge, which knows what is allowed where
            place = place.setdefault(part, {})
        else:
            place = place[_index(place, part, f"--set {key}")]
    if isinstance(place, dict):
        place[last] = value
    else:
        place[_index(place, last, f"--set {key}")] = value


def _index(items: Any, part: str, key: str) -> int:
    """A place in a list, by its number or by the `name` of the entry."""
    if not isinstance(items, list):
        raise ConfigError(f"{key}: there is nothing below {items!r}, so no {part}")
    for i, item in enumerate(items):
        if part == str(i) or (isinstance(item, dict) and item.get("name") == part):
            return i
    raise ConfigError(f"{key}: there is no entry {part}; there are {len(items)}, counted from 0")


def parse_config(values: dict, source: str = "config") -> Config:
    """Plain values as a Config. Raises ConfigError with a line for every error."""
    errors: list[str] = []
    config = _parse_dataclass(Config, values, "", errors)
    if not errors:
        _check_stages(config, errors)
    if errors:
        raise ConfigError(f"{source}: " + "; ".join(errors))
    return config


def load_config(
    path: str | Path,
    dataset: str,
    preset: str | None = None,
    assignments: Sequence[str] = (),
    device: str | None = None,
) -> Config:
    """Read config.yaml, apply the preset, the data set's entry and the assignments, and check the result."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a table of keys")
    presets, datasets = values.pop("presets", None) or {}, values.pop("datasets", None) or {}
    own = dict(datasets.get(dataset) or {})
    preset = preset or own.get("preset")
    own.pop("preset", None)
    if preset and preset != "full":
        if preset not in presets:
            raise ConfigError(f"--preset {preset}: unknown; {path} has: {', '.join(['full', *presets])}")
        values = merge(values, presets[preset])
    values = merge(values, own)
    values["dataset"] = dataset
    if device:
        values["device"] = device
    for assignment in assignments:
        set_value(values, assignment)
    return parse_config(values, str(path))
