"""The configuration as frozen dataclasses: what keys there are, and what each may be. utils/config/loading.py reads it.

Pydantic checks the values; each type of number says what it expects, in the words that an error then has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError

from utils.errors import ConfigError
from utils.reading.scaling import SCALES, check_scales


def config_table(cls: type) -> type:
    """A table of the configuration: frozen, made from keywords, without unknown keys."""
    return pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("expected", what)


def _number(kind: type, expected: str, is_allowed: Callable[[float], bool], *words: str) -> BeforeValidator:
    """A check for finite numbers, or one of the words. YAML 1.1 takes `1e-4` for a text: it is read as a number."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in words:
            return value
        number = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                raise _expected(expected) from None
        is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not is_number or not is_allowed(number) or (kind is int and number != int(number)):
            raise _expected(expected)
        return kind(number)

    return BeforeValidator(check)


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _expected("true or false")
    return value


def _check_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _expected("a text")
    return value


def _check_pair(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _expected("a list")
    if len(value) != 2:
        raise _expected("a list of 2")
    return value


def _check_scales(value: tuple[float, ...]) -> tuple[float, ...]:
    try:
        return check_scales(value)
    except ConfigError:
        raise _expected(f"different scales from {SCALES[0]:g} to {SCALES[1]:g}") from None


Integer = Annotated[int, _number(int, "an integer", lambda x: True)]
PositiveInteger = Annotated[int, _number(int, "a positive integer", lambda x: x > 0)]
NonNegativeInteger = Annotated[int, _number(int, "a non-negative integer", lambda x: x >= 0)]
PositiveIntegerOrAuto = Annotated[
    int | Literal["auto"], _number(int, "a positive integer or auto", lambda x: x > 0, "auto")
]
PositiveNumber = Annotated[float, _number(float, "a positive number", lambda x: x > 0)]
NonNegativeNumber = Annotated[float, _number(float, "a non-negative number", lambda x: x >= 0)]
Share = Annotated[float, _number(float, "a number between 0 and 1", lambda x: 0 <= x <= 1)]
Flag = Annotated[bool, BeforeValidator(_check_flag)]
Text = Annotated[str, BeforeValidator(_check_text)]
Range = Annotated[tuple[PositiveNumber, PositiveNumber], BeforeValidator(_check_pair)]
Scales = Annotated[tuple[PositiveNumber, ...], AfterValidator(_check_scales)]
IntegerRange = Annotated[tuple[PositiveInteger, PositiveInteger], BeforeValidator(_check_pair)]


@config_table
class DataConfig:
    """Where images come from and how large they may be."""

    root: Text
    image_scale: PositiveNumber
    max_height: PositiveInteger
    max_width: PositiveInteger
    validation_share: Share
    workers: NonNegativeInteger
    symbols: tuple[Text, ...] = ()
    scales: Scales = (1.0,)
    chinese_font: Text | None = None


@config_table
class BatchConfig:
    """How many images a step sees: a fixed count (train_stage.py), or a budget (train_stage_ABS.py)."""

    batch_size: PositiveInteger
    pool: PositiveInteger
    max_pixels: PositiveIntegerOrAuto
    cpu_max_pixels: PositiveInteger
    max_samples: PositiveInteger | None
    shapes: PositiveInteger | None = None
    reference_pixels: PositiveInteger | None = None


@config_table
class EncoderConfig:
    """DenseNet-B: Huang et al., CVPR 2017."""

    growth: PositiveInteger
    layers: tuple[PositiveInteger, ...]
    compression: Share
    dropout: Share
    recompute: Flag = False
    bottleneck: PositiveInteger = 4


@config_table
class GRUConfig:
    """Attention GRU with coverage: Zhang et al., Pattern Recognition 2017; Li et al. (CAN), ECCV 2022."""

    hidden: PositiveInteger
    embedding: PositiveInteger
    attention: PositiveInteger
    coverage_kernel: PositiveInteger
    location: NonNegativeInteger = 0
    symbols: Flag = False
    dropout: Share


@config_table
class TransformerConfig:
    """Transformer with coverage, both directions: Zhao and Gao (CoMER), ECCV 2022."""

    width: PositiveInteger
    heads: PositiveInteger
    layers: PositiveInteger
    feed_forward: PositiveInteger
    dropout: Share


@config_table
class ModelConfig:
    encoder: EncoderConfig
    decoder: Literal["gru", "transformer"]
    counting: NonNegativeInteger
    gru: GRUConfig
    transformer: TransformerConfig


@config_table
class TrainingConfig:
    """What all stages share."""

    optimizer: Literal["adamw", "muon", "sgd", "adadelta"]
    muon_factor: PositiveNumber = 5.0
    muon_parts: tuple[Literal["encoder", "decoder"], ...] = ("encoder", "decoder")
    weight_decay: NonNegativeNumber
    momentum: Share
    warmup_epochs: NonNegativeNumber
    final_learning_rate: Share
    clip_norm: PositiveNumber
    ema: Share
    swa_epochs: NonNegativeInteger
    label_smoothing: Share
    input_noise: Share = 0.0
    validate_every: PositiveInteger
    validate_minutes: PositiveNumber | None = None
    validation_images: PositiveInteger
    save_minutes: PositiveNumber
    minutes: PositiveNumber | None = None
    clock: Literal["wall", "cpu", "steps"] = "wall"
    step_seconds: PositiveNumber = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Flag = False


IMAGES = ("standard", "synthetic", "pairs", "ink")
PARTS = ("standard_encoder", "handwritten_encoder", "decoder", "backwards")
LOSSES = (
    "label",
    "counting",
    "attention",
    "symbols",
    "context_cosine",
    "context_contrast",
    "distribution",
    "feature_map",
)
# Losses by their names in older files.
FORMER_LOSSES = {"glimpse_cosine": "context_cosine", "glimpse_contrast": "context_contrast"}
BOX_LOSSES = ("attention", "symbols")  # ask where the ink of each token lies
PAIR_LOSSES = ("context_cosine", "context_contrast", "distribution", "feature_map", *FORMER_LOSSES)


@config_table
class StrokesConfig:
    """Ranges of the distortions of pen strokes, where a data set has them; the defaults leave them as they are."""

    pen: IntegerRange = (3, 3)
    jitter: NonNegativeNumber = 0.0
    shift: NonNegativeNumber = 0.0
    scale: Range = (1.0, 1.0)
    stretch: Range = (1.0, 1.0)
    slant: NonNegativeNumber = 0.0
    rotation: NonNegativeNumber = 0.0
    smoothing: NonNegativeNumber = 0.0
    exchange: Share = 0.0


@config_table
class AugmentConfig:
    """Ranges of the distortions of ink; [1, 1] and 0 leave it as it is."""

    scale: Range
    stretch: Range
    rotation: NonNegativeNumber
    shear: NonNegativeNumber
    perspective: NonNegativeNumber
    distortion: NonNegativeNumber
    thickness: Share
    contrast: Share
    blur: NonNegativeNumber
    cut_outs: NonNegativeInteger
    cut_out_size: PositiveInteger
    strokes: StrokesConfig = StrokesConfig()


@config_table
class ExpressionsConfig:
    """Labels beside those of the training split: so many new ones, made from their trees."""

    synthetic: NonNegativeInteger = 0


@config_table
class ReplayConfig:
    """Standard images shown among the ink: so many for each image of ink, in the first epoch and in the last."""

    first: NonNegativeNumber = 0.0
    last: NonNegativeNumber = 0.0


@config_table
class ShareConfig:
    """The share of the images of ink that are synthetic, or renamed: when a stage begins, and when it ends."""

    first: Share = 0.0
    last: Share = 0.0


@config_table
class StageConfig:
    """One stage of training. A stage is data: which images, what learns, from which losses, for how long."""

    name: Text
    images: Literal["standard", "synthetic", "pairs", "ink"]
    trains: tuple[Literal["standard_encoder", "handwritten_encoder", "decoder", "backwards"], ...]
    losses: dict[str, NonNegativeNumber]
    epochs: PositiveInteger
    learning_rate: PositiveNumber
    passes: PositiveInteger = 1
    final_learning_rate: Share | None = None  # None: that of `training`
    share: PositiveNumber | None = None
    styles: Literal["standard", "varied"] = "varied"
    expressions: ExpressionsConfig = ExpressionsConfig()
    replay: ReplayConfig = ReplayConfig()
    synthetic: ShareConfig = ShareConfig()
    renamed: ShareConfig = ShareConfig()
    augment: Flag = False
    starts_from_standard: Flag = False  # the handwritten encoder, as a copy of the standard one
    starts_from_decoder: Flag = False  # the decoder that reads backwards, as a copy of the other one
    image_scale: PositiveNumber | None = None  # None: that of `data`

    @property
    def domain(self) -> Literal["standard", "handwritten"]:
        """Whose encoder reads what the stage validates on."""
        return "standard" if self.images == "standard" else "handwritten"


@config_table
class Config:
    dataset: Text
    seed: Integer
    device: Text
    threads: PositiveIntegerOrAuto = "auto"
    init: Text | None = None
    data: DataConfig
    batch: BatchConfig
    model: ModelConfig
    augment: AugmentConfig
    training: TrainingConfig
    stages: tuple[StageConfig, ...]

    def domains(self) -> tuple[str, ...]:
        """The kinds of images that need an encoder: the handwritten one always, for it is what the run is for."""
        needs_standard = any(stage.images in ("standard", "pairs") for stage in self.stages)
        return ("standard", "handwritten") if needs_standard else ("handwritten",)

    def trains(self, part: str) -> bool:
        """Whether any stage trains this part of the network."""
        return any(part in stage.trains for stage in self.stages)

    def uses_loss(self, name: str) -> bool:
        """Whether any stage gives this loss a weight."""
        return any(stage.losses.get(name, 0) > 0 for stage in self.stages)

    def as_dict(self) -> dict:
        """The configuration as plain values, as a run keeps it."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    """Tables and lists as YAML has them, so without tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


Location = tuple[str | int, ...]  # of a value in the configuration, such as ("stages", 0, "epochs")


def stage_errors(config: Config) -> list[tuple[Location, str]]:
    """What types cannot say: which losses and parts make sense for which images."""
    errors: list[tuple[Location, str]] = []
    for index, stage in enumerate(config.stages):
        here = ("stages", index)
        if any(stage.name == other.name for other in config.stages[:index]):
            errors.append(((*here, "name"), f"{stage.name!r} names two stages; a run keeps its files by stage name"))
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            errors.append(((*here, "name"), f"expected letters, digits, - and _, got {stage.name!r}"))
        if not stage.trains:
            errors.append(((*here, "trains"), f"expected at least one of {', '.join(PARTS)}"))
        errors += [((*here, "losses", *where), why) for where, why in _loss_errors(stage, config.model.counting)]
        if stage.passes > 1 and stage.images != "ink":
            errors.append(((*here, "passes"), f"expected 1, as the images are {stage.images}; ink alone is repeated"))
        unseen = "handwritten_encoder" if stage.images == "standard" else "standard_encoder"
        if unseen in stage.trains:
            errors.append(((*here, "trains"), f"{unseen} does not see `images: {stage.images}`"))
        errors += [
            ((*here, "trains"), why) for why in _backwards_errors(stage, config.stages[index + 1 :], config.model)
        ]
        errors += [((*here, *where), why) for where, why in _mix_errors(stage)]
        if stage.share is None and any(other.share is not None for other in config.stages):
            errors.append(((*here, "share"), "missing; where one stage has a share of the time, all need one"))
    if config.stages and config.stages[-1].image_scale not in (None, config.data.image_scale):
        where = ("stages", len(config.stages) - 1, "image_scale")
        errors.append((where, f"expected {config.data.image_scale:g}, as data.image_scale: the run is read so"))
    if not config.stages:
        errors.append((("stages",), "expected at least one stage"))
    return errors


def _backwards_errors(stage: StageConfig, later: Sequence[StageConfig], model: ModelConfig) -> list[str]:
    if "backwards" not in stage.trains:
        return ["expected backwards among them, which `starts_from_decoder`"] if stage.starts_from_decoder else []
    errors = []
    if model.decoder == "transformer":
        errors.append("the transformer decoder reads in both directions by itself; backwards is for gru")
    if "decoder" not in stage.trains and _trains_encoder(stage):
        errors.append("expected decoder, too: it would not follow an encoder that learns for backwards alone")
    if others := [other.name for other in later if "backwards" not in other.trains and _trains_encoder(other)]:
        errors.append(f"what backwards reads from would change after it: let it learn in {', '.join(others)}, too")
    return errors


def _trains_encoder(stage: StageConfig) -> bool:
    return any(part.endswith("encoder") for part in stage.trains)


def _loss_errors(stage: StageConfig, counting: int) -> list[tuple[Location, str]]:
    errors: list[tuple[Location, str]] = []
    for name in stage.losses:
        if name not in (*LOSSES, *FORMER_LOSSES):
            errors.append(((name,), f"unknown loss; known: {', '.join(LOSSES)}"))
        elif name in PAIR_LOSSES and stage.images != "pairs":
            errors.append(((name,), f"needs `images: pairs`, this stage has {stage.images}"))
        elif name == "counting" and not counting:
            errors.append(((name,), "needs `model.counting` above 0"))
    if not any(stage.losses.values()):
        errors.append(((), "expected at least one loss with a weight"))
    return errors


def is_shown(share: ShareConfig | ReplayConfig) -> bool:
    """Whether a stage shows any of what it has a share of."""
    return max(share.first, share.last) > 0


def _mix_errors(stage: StageConfig) -> list[tuple[Location, str]]:
    errors: list[tuple[Location, str]] = []
    is_replayed = is_shown(stage.replay)
    if is_replayed and stage.images != "ink":
        errors.append((("replay",), f"standard images among ink; expected `images: ink`, got {stage.images}"))
    is_mixed = is_shown(stage.synthetic)
    if is_mixed and stage.images != "ink":
        errors.append((("synthetic",), f"synthetic ink among ink; expected `images: ink`, got {stage.images}"))
    if is_shown(stage.renamed) and stage.images != "ink":
        errors.append((("renamed",), f"renamed ink among ink; expected `images: ink`, got {stage.images}"))
    for when in ("first", "last"):
        together = getattr(stage.synthetic, when) + getattr(stage.renamed, when)
        if together > 1:
            errors.append((("renamed",), f"{when}, with `synthetic`: expected a share of at most 1, got {together:g}"))
    has_new = stage.images in ("standard", "synthetic") or is_replayed or is_mixed
    if stage.expressions.synthetic and not has_new:
        where = ("expressions", "synthetic")
        errors.append((where, "new expressions have no ink; expected `images: standard`"))
    return errors
