"""What a stage reads: the opened data set, the images of a stage, and loaders that deal them out in batches."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from dataset.formats.preparation import cleaning_of, photographs_as_they_are, prepare_if_needed
from dataset.images.augmentation import AS_WRITTEN, Augmentation, StrokeAugmentation
from dataset.images.exchange import VARIANTS, Donors, Exchange, Renaming
from dataset.images.handwritten import HandwrittenImages
from dataset.images.mixture import Again, Mixture, between
from dataset.images.scaling import Scaling
from dataset.images.source import ImageSource
from dataset.images.standard import STANDARD, VARIED, StandardImages, Styles
from dataset.images.store import ImageStore, open_split
from dataset.images.strokes import open_strokes
from dataset.images.symbol_pool import gather
from dataset.images.symbols import SymbolLibrary, open_library
from dataset.images.synthetic import SyntheticInk
from dataset.latex.expressions import open_expressions
from dataset.loading.batch import Batch, LoadedItem, collate
from dataset.loading.validation import HeldOut, split_validation
from dataset.sampler import AdaptiveBatchSampler, BatchCost, EpochPlan, FixedBatchSampler, Shapes
from dataset.typesetter.symbols import missing_characters
from dataset.vocabulary import Vocabulary
from utils.config.schema import BOX_LOSSES, AugmentConfig, Config, DataConfig, StageConfig, is_shown
from utils.errors import ConfigError, DataError
from utils.parallel import use_one_thread
from utils.project import from_root
from utils.reading.images import IMAGE_SETTINGS
from utils.training.distributed import SINGLE_PROCESS, DistributedContext
from utils.training.duration import EpochSize
from utils.training.memory import MemoryModel

Kind = Literal["standard", "ink", "synthetic", "pairs"]
Batching = Literal["fixed", "adaptive"]


def open_data(settings: DataConfig, dataset: str, seed: int, known: Sequence[str] = ()) -> Data:
    """Open datasets/NAME; make SAMPLE, or prepare an untouched download, where that is still to be done.

    settings: the `data` table of the config.   known: see Data. Raises DataError that says what was looked for, and
    where.
    """
    folder = from_root(settings.root) / dataset
    if dataset == "SAMPLE" and not (folder / "train" / "labels.txt").exists():
        from dataset.images.sample import make_sample

        make_sample(folder)
    prepare_if_needed(folder)
    return Data(folder, settings, seed, known)


class Data:
    """An opened data set: its vocabulary, its splits, and the validation part of its training split."""

    def __init__(self, folder: Path, settings: DataConfig, seed: int, known: Sequence[str] = ()):
        """settings: the `data` table of the config.   known: the tokens of the weights that a run starts from; the
        vocabulary begins with them, and has the data set's other tokens behind them."""
        self.folder, self.settings = folder, settings
        self.own_vocabulary = Vocabulary.from_file(folder / "vocabulary.txt")
        self.vocabulary = Vocabulary(known).extended(self.own_vocabulary.tokens) if known else self.own_vocabulary
        self.stores = {"train": open_split(folder, "train", self.vocabulary)}
        names = sorted(path.parent.name for path in folder.glob("*/labels.txt"))
        self.splits = [name for name in names if name not in NOT_TESTS]
        self.held_out: HeldOut | None = None
        if "validation" in names:  # the user's own
            self.stores["validation"] = open_split(folder, "validation", self.vocabulary)
            self.indices = {name: np.arange(len(store)) for name, store in self.stores.items()}
        else:
            self.stores["validation"] = self.stores["train"]
            self.held_out = HeldOut(settings.validation_share, seed)
            parts = split_validation(self.stores["train"].label_hash, self.held_out)
            self.indices = dict(zip(("train", "validation"), parts, strict=True))
        for name, indices in self.indices.items():
            if not len(indices):
                raise DataError(f"{folder}: nothing left for {name}; expected more labels, or another validation_share")

    def of_stage(self, stage: StageConfig) -> Data:
        """The same data set, in the size of image that a stage asks for."""
        return self if stage.image_scale is None else self.resized(stage.image_scale)

    def resized(self, image_scale: float) -> Data:
        """The same data set, its images of another size: times that of the files."""
        data = copy.copy(self)
        data.settings = replace(self.settings, image_scale=image_scale)
        return data

    def about(self) -> dict:
        """What whoever reads with the weights must do to an image, as plain values."""
        clean = cleaning_of(self.folder / "train")
        about = {name: getattr(self.settings, name) for name in (*IMAGE_SETTINGS, "scales")}
        return about | ({"clean": clean} if clean else {})

    def counts(self) -> dict[str, int]:
        """Images a split."""
        return {name: len(self._part(name)[1]) for name in ("train", "validation", *self.splits)}

    def describe(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"{len(self.vocabulary.tokens)} tokens; images: {counts}"

    def uncleaned(self, split: str) -> int:
        """Photographs of a test split that were not cleaned, where those of the training split were."""
        was_cleaned = cleaning_of(self.folder / "train") == "auto"
        return photographs_as_they_are(self.folder / split) if was_cleaned else 0

    def epoch_size(self, stage: StageConfig) -> EpochSize:
        """What an epoch of a stage shows, without drawing it: standard images are taken to be as large as ink."""
        data = self.of_stage(stage)
        ink = data.ink("train")
        if stage.images in ("standard", "synthetic"):
            store, indices = data._part("train")
            images = len(np.unique(store.label_hash[indices])) + stage.expressions.synthetic
        else:
            replayed = (stage.replay.first + stage.replay.last) / 2 if stage.images == "ink" else 0
            images = round(len(ink) * stage.passes * (1 + replayed))
        sizes = ink.sizes(0, 0)
        height, area = sizes[:, 0].mean(), sizes.prod(1).mean()
        return EpochSize(images, round(height), round(area / height), round(ink.lengths.mean()))

    def text(self, ids: list[int]) -> str:
        """A label as a person writes it."""
        return " ".join(self.vocabulary.decode(ids))

    def ink(
        self,
        split: str,
        augmentation: Augmentation | None = None,
        limit: int | None = None,
        strokes: StrokeAugmentation | None = None,
    ) -> HandwrittenImages:
        """The handwriting of "train", "validation" or a test split; at most `limit` images, evenly chosen.

        strokes: how they are distorted where they are known; None: they are not looked for.
        """
        store, indices = self._part(split)
        if limit and len(indices) > limit:
            indices = indices[np.linspace(0, len(indices) - 1, limit).astype(int)]
        written = None if strokes is None else open_strokes(store.folder.parent)
        return HandwrittenImages(
            store,
            indices,
            _scaling(self.about()),
            augmentation=augmentation,
            strokes=written,
            stroke_augmentation=strokes or AS_WRITTEN,
            exchange=Exchange(self.donors, strokes.exchange) if written and strokes.exchange else None,
        )

    def renamed_ink(
        self, augmentation: Augmentation | None = None, strokes: StrokeAugmentation = AS_WRITTEN
    ) -> HandwrittenImages:
        """Every image of the training part VARIANTS times, each with a label of its own; see `exchange.Renaming`.

        None of them is a label of validation or of a test split. Needs strokes.
        """
        store, indices = self._part("train")
        counts = np.zeros(len(self.vocabulary), np.int64)
        for index in indices:
            np.add.at(counts, store.tokens(int(index)), 1)
        held_out = [" ".join(tokens) for part in self._held_out().values() for tokens in part]
        renaming = Renaming(self.donors, self.vocabulary, counts, held_out)
        return HandwrittenImages(
            store,
            np.tile(indices, VARIANTS),
            _scaling(self.about()),
            augmentation=augmentation,
            strokes=open_strokes(store.folder.parent),
            stroke_augmentation=strokes,
            exchange=Exchange(self.donors, strokes.exchange, renaming),
        )

    @cached_property
    def donors(self) -> Donors:
        """The symbols that may take the place of others in ink. Needs strokes."""
        return Donors(gather(self.symbol_sources(), self.vocabulary), self.vocabulary)

    def standard(self, split: str, styles: Styles, synthetic: int = 0, limit: int | None = None) -> StandardImages:
        """The standard images of the different labels of a split, and of so many new ones made from them.

        Those that cannot be drawn are left out, counted and listed on stderr.
        """
        store, indices = self._part(split)
        _, first = np.unique(store.label_hash[indices], return_index=True)
        labels = [self.vocabulary.decode(store.tokens(int(indices[i]))) for i in np.sort(first)]
        if limit and len(labels) > limit:
            labels = [labels[i] for i in np.linspace(0, len(labels) - 1, limit).astype(int)]
        if synthetic:
            labels += open_expressions(self.folder / "standard", labels, synthetic, SYNTHETIC_SEED, self._held_out())
        folder = self.folder / "standard"
        styles = replace(styles, chinese_font=self.settings.chinese_font or "")
        images = StandardImages(labels, self.vocabulary, folder, styles, _scaling(self.about()))
        for label, reason in images.failures:
            print(f"left out, cannot be drawn: {' '.join(label)} ({reason})", file=sys.stderr)
        if images.failures:
            print(f"{len(images.failures)} of {len(labels)} labels of {split} have no standard image", file=sys.stderr)
        return images

    def synthetic_ink(
        self,
        new_labels: int = 0,
        augmentation: Augmentation | None = None,
        strokes: StrokeAugmentation | None = None,
    ) -> SyntheticInk:
        """The training labels, and so many new ones made from them, in the ink of the training part's symbols.

        Symbols of the data sets that `data.symbols` names are used as well. What nobody has written is listed on
        stderr: a simulated hand draws it.
        """
        labels = self.standard("train", STANDARD, new_labels)
        ink = SyntheticInk(
            labels,
            self.vocabulary,
            self.symbol_sources(),
            _scaling(self.about()),
            augmentation=augmentation,
            stroke_augmentation=strokes or AS_WRITTEN,
        )
        if ink.simulated:
            print(
                f"{self.folder.name}: in a simulated hand, for lack of strokes: {' '.join(ink.simulated)}",
                file=sys.stderr,
            )
        return ink

    def symbol_sources(self) -> list[tuple[SymbolLibrary, np.ndarray | None]]:
        """The libraries to draw with, each with which of its symbols may be used: here, those of the training part.

        Empty where no strokes are known. Raises DataError where a data set that `data.symbols` names has none.
        """
        sources: list[tuple[SymbolLibrary, np.ndarray | None]] = []
        own = open_library(self.folder / "train", self.own_vocabulary)
        if own is not None:
            store, indices = self._part("train")
            sources.append((own, own.of_images([store.name(int(index)) for index in indices])))
        for name in self.settings.symbols:
            folder = from_root(self.settings.root) / name
            if (folder / "symbols" / "store.json").is_file():
                sources.append((SymbolLibrary(folder / "symbols"), None))
                continue
            vocabulary = folder / "vocabulary.txt"
            library = open_library(folder / "train", Vocabulary.from_file(vocabulary)) if vocabulary.is_file() else None
            if library is None:
                raise DataError(
                    f"data.symbols: {folder}: expected symbols/ (python -m dataset.images.symbols), or a data set made "
                    f"from InkML, with train/strokes"
                )
            sources.append((library, None))
        return sources

    def pairs(
        self,
        split: str,
        styles: Styles,
        augmentation: Augmentation | None,
        strokes: StrokeAugmentation | None = None,
    ) -> Pairs:
        """Ink with the standard image of its label; ink whose label cannot be drawn is left out, and that is said.

        strokes: see `ink`.
        """
        standard = self.standard(split, styles)
        ink = self.ink(split, augmentation, strokes=strokes)
        partners = _find(standard.label_hash(), ink.label_hash())
        if (partners < 0).any():
            print(f"{(partners < 0).sum()} images of {split} have no standard image to learn from", file=sys.stderr)
        return Pairs(ink.part(partners >= 0), standard, partners[partners >= 0])

    def _part(self, split: str) -> tuple[ImageStore, np.ndarray]:
        if split not in self.stores:
            self.stores[split] = open_split(self.folder, split, self.vocabulary)
            self.indices[split] = np.arange(len(self.stores[split]))
        return self.stores[split], self.indices[split]

    def _held_out(self) -> dict[str, list[list[str]]]:
        """The labels that no new expression may be, by split."""
        parts = {split: self._part(split) for split in ("validation", *self.splits)}
        return {
            split: [self.vocabulary.decode(store.tokens(int(i))) for i in indices]
            for split, (store, indices) in parts.items()
        }


class Pairs(ImageSource):
    """Ink with the standard image of the same label, its partner, for alignment."""

    def __init__(self, ink: HandwrittenImages, standard: StandardImages, partners: np.ndarray):
        """partners: (N,) for each image of ink, the index of its label in `standard`."""
        self.ink, self.standard, self.partners = ink, standard, partners
        self.lengths = ink.lengths

    def __len__(self) -> int:
        return len(self.ink)

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width of the ink."""
        return self.ink.sizes(seed, epoch)

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        return self.ink.image(index, seed, epoch)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        return self.ink.boxes(index, seed, epoch)

    def label(self, index: int) -> np.ndarray:
        return self.ink.label(index)

    def name(self, index: int) -> str:
        return self.ink.name(index)

    def partner(self, index: int, seed: int, epoch: int) -> np.ndarray:
        return self.standard.image(int(self.partners[index]), seed, epoch)

    def partner_sizes(self, seed: int, epoch: int) -> np.ndarray:
        return self.standard.sizes(seed, epoch)[self.partners]


class Key(NamedTuple):
    """Which image, and what else a worker must know to draw it for its batch.   shapes: see LoadedItem."""

    epoch: int
    index: int
    shapes: Shapes | None = None


class Items:
    """A map-style data set over keys, so that workers need no word about the epoch, or the batch."""

    def __init__(self, source: ImageSource, kind: Kind, seed: int, with_boxes: bool = False):
        """kind: what the images are, as a stage says it.   with_boxes: whether a loss asks where tokens lie."""
        self.source, self.kind, self.seed, self.with_boxes = source, kind, seed, with_boxes

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, keys: Sequence[Key]) -> list[LoadedItem]:
        """A batch, as torch's loaders ask for it; its keys are of one epoch."""
        if keys:
            self.source.prepare([key.index for key in keys], self.seed, keys[0].epoch)
        return [self[key] for key in keys]

    def __getitem__(self, key: Key | tuple[int, int]) -> LoadedItem:
        epoch, index, shapes = Key(*key)
        source = self.source
        image, partner = source.image(index, self.seed, epoch), source.partner(index, self.seed, epoch)
        ink, standard = (None, image) if self.kind == "standard" else (image, partner)
        boxes = source.boxes(index, self.seed, epoch) if self.with_boxes else None
        return LoadedItem(index, source.name(index), source.label(index), ink, standard, boxes, shapes)


class Loader:
    """Batches of one stage. `set_epoch(epoch, first_batch)` first; then iterate; `len()` is the whole epoch's."""

    def __init__(
        self,
        items: Items,
        sampler: FixedBatchSampler | AdaptiveBatchSampler,
        workers: int = 0,
        pin_memory: bool = False,
    ):
        self.items, self.sampler, self.workers, self.progress = items, sampler, workers, 0.0
        # Batches are few and workers stay: the sampler's keys carry the epoch to them.
        self._keys = _Keys(sampler)
        self._loader = torch.utils.data.DataLoader(
            items,
            batch_sampler=self._keys,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=use_one_thread,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # A generator of its own: the loader's draws must not move the one that dropout draws from.
            generator=torch.Generator(),
        )

    @property
    def epoch(self) -> int:
        """The one that set_epoch() began."""
        return self._keys.epoch

    def set_epoch(self, epoch: int, state: dict | None = None, progress: float = 0.0) -> None:
        """Begin an epoch, or go on in the middle of one from a state.

        progress: of the stage, 0 to 1; a source whose mix changes in the course of a stage is told it.
        """
        self._keys.epoch, self.progress = epoch, state["progress"] if state else progress
        self.items.source.set_progress(self.progress)
        if state:
            self.sampler.load_state_dict(state)
        else:
            self.sampler.set_epoch(epoch)

    @property
    def max_pixels(self) -> int | None:
        """The budget of a batch; None where batches have a fixed count."""
        return self.sampler.max_pixels

    @property
    def oversize(self) -> int:
        """Images that cost more than the budget alone; each has a batch of its own."""
        return self.sampler.oversize

    def set_max_pixels(self, max_pixels: int) -> None:
        self.sampler.set_max_pixels(max_pixels)

    @property
    def fetched_ahead(self) -> int:
        """Batches that the workers have asked for before they are needed."""
        return 2 * self.workers

    def state_dict(self, batches_done: int) -> dict:
        """Where the epoch stands when so many of its batches were trained on; workers may have read further."""
        return self.sampler.state_dict(batches_done) | {"progress": self.progress}

    def counts(self, step: int) -> np.ndarray:
        """(world_size, 2) int: tokens (ends included) and images of each process's batch in a step of this epoch."""
        batches = self.sampler.batches_of(step)
        return np.array([[self.items.source.lengths[batch].sum() + len(batch), len(batch)] for batch in batches])

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


class _Keys:
    """Batches of keys, for torch's loader. They know no Loader, which knows them.

    In a circle of references, workers would end when Python collects garbage: their queues are closed before they can
    be told to end, and torch waits five seconds for each of them, in the middle of whatever is done at that moment.
    """

    def __init__(self, sampler: FixedBatchSampler | AdaptiveBatchSampler):
        self.sampler, self.epoch = sampler, 0

    def __iter__(self):
        for indices, shapes in self.sampler.with_shapes():
            yield [Key(self.epoch, int(index), shapes) for index in indices]

    def __len__(self) -> int:
        return len(self.sampler)


# ---- from a config to loaders ----------------------------------------------------------------------------------------

# Splits that are not read at a run's end: MathWriting's symbols and synthetic ink are there to train on.
NOT_TESTS = ("train", "validation", "symbols", "synthetic")
SYNTHETIC_SEED = 0
READING_PIXELS, READING_IMAGES = 1_000_000, 64  # a batch's budget where nothing is trained


def _scaling(about: dict) -> Scaling:
    return Scaling(about["image_scale"], about["max_height"], about["max_width"])


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted key its place in `keys`, or -1."""
    order = np.argsort(keys)
    indices = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[indices] == wanted, indices, -1)


def check_augment(settings: AugmentConfig) -> None:
    """Raises ConfigError for a range of distortions that makes no sense."""
    _augmentations(settings)


def check_stages(data: Data, config: Config) -> None:
    """Raises, before training takes time, the DataError or ConfigError that a later stage would stop at."""
    _, strokes = _augmentations(config.augment)
    if config.data.chinese_font:
        check_chinese_font(config.data.chinese_font, data.vocabulary.tokens)
    for stage in config.stages:
        _require_boxes(data, stage)
    if open_strokes(data.folder / "train", checked=True) is None:
        mixed = [stage.name for stage in config.stages if stage.images == "ink" and _needs_boxes(stage)]
        if mixed:
            print(
                f"{data.folder.name} has no pen strokes: in stage {' and '.join(mixed)}, losses that need boxes "
                "learn from synthetic ink alone, and `augment.strokes` changes that alone",
                file=sys.stderr,
            )
        plain = [stage.name for stage in config.stages if stage.augment and _shows_its_ink_alone(stage)]
        if plain and strokes != AS_WRITTEN:
            raise _no_strokes(data, f"`augment.strokes` in stage {' and '.join(plain)}")


def check_chinese_font(path: str, tokens: Sequence[str]) -> None:
    """Raises ConfigError where the font is missing, is none, or lacks a Chinese character among the tokens."""
    if not Path(path).is_file():
        raise ConfigError(f"data.chinese_font: {path}: not found; expected a font file (.ttf, .otf or .ttc)")
    try:
        missing = missing_characters(path, tokens)
    except DataError as error:
        raise ConfigError(f"data.{error}") from None
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ConfigError(
            f"data.chinese_font: {path} lacks {len(missing)} characters of the vocabulary: "
            f"{' '.join(missing[:10])}{more}; expected a font with Chinese, such as Noto Sans CJK"
        )


def _augmentations(settings: AugmentConfig) -> tuple[Augmentation, StrokeAugmentation]:
    """What the section `augment` of a config says about images and about strokes. Raises ConfigError."""
    images = dict(vars(settings))
    strokes = vars(images.pop("strokes"))
    made = []
    for key, kind, values in (("augment", Augmentation, images), ("augment.strokes", StrokeAugmentation, strokes)):
        try:
            made.append(kind(**values))
        except ValueError as error:
            raise ConfigError(f"{key}.{error}") from None
    return made[0], made[1]


def _needs_boxes(stage: StageConfig) -> list[str]:
    """The losses of a stage that ask where each token's ink lies."""
    return [name for name in BOX_LOSSES if stage.losses.get(name, 0) > 0]


def _shows_its_ink_alone(stage: StageConfig) -> bool:
    """Whether all images of a stage's handwriting are those of the data set."""
    return stage.images in ("ink", "pairs") and not is_shown(stage.synthetic)


def _require_boxes(data: Data, stage: StageConfig) -> None:
    """Raises DataError where a loss needs boxes, and no image of the stage has any."""
    is_mixed = min(stage.synthetic.first, stage.synthetic.last) > 0
    has_boxes = is_mixed or stage.images in ("standard", "synthetic")
    if _needs_boxes(stage) and not has_boxes and open_strokes(data.folder / "train") is None:
        names = " and ".join(f"`{name}`" for name in _needs_boxes(stage))
        raise _no_strokes(data, f"the loss {names} of stage {stage.name}")


def _no_strokes(data: Data, what: str) -> DataError:
    """What to say where `what` needs pen strokes."""
    return DataError(
        f"{data.folder / 'train' / 'strokes'}: not found; {what} needs pen strokes, which are kept where ink comes as "
        f"InkML: python prepare.py INKML_FOLDER --dataset {data.folder.name}"
    )


def _training_images(data: Data, stage: StageConfig, config: Config) -> ImageSource:
    """What a stage shows, as its config says."""
    styles = VARIED if stage.styles == "varied" else STANDARD
    augmentation, strokes = _augmentations(config.augment) if stage.augment else (None, AS_WRITTEN)
    if stage.images == "standard":
        return data.standard("train", styles, stage.expressions.synthetic)
    if stage.images == "synthetic":
        return data.synthetic_ink(stage.expressions.synthetic, augmentation, strokes)
    if stage.images == "pairs":
        return data.pairs("train", styles, augmentation, strokes)
    ink = data.ink("train", augmentation, strokes=strokes)
    among, beside = [], []  # sources and their shares: of the ink, and of what is shown besides
    if is_shown(stage.renamed):
        if ink.strokes is None:
            print(f"{data.folder.name}: no strokes are known; renamed ink is shown as it is", file=sys.stderr)
        else:
            among.append((data.renamed_ink(augmentation, strokes), stage.renamed))
    if is_shown(stage.synthetic):
        among.append((data.synthetic_ink(stage.expressions.synthetic, augmentation, strokes), stage.synthetic))
    if is_shown(stage.replay):
        beside.append((data.standard("train", styles, stage.expressions.synthetic), stage.replay))
    if not (among or beside or stage.passes > 1):
        return ink
    again = (Again(ink, number) for number in range(1, stage.passes))
    sources: list[ImageSource] = [ink, *again, *(source for source, _ in among + beside)]
    shown = len(ink) * stage.passes

    def counts(passed: float) -> list[int]:
        """As many images of handwriting as passes of the ink, shares of them renamed and synthetic; others besides."""
        others = [round(shown * between(share.first, share.last, passed)) for _, share in among + beside]
        left = shown - sum(others[: len(among)])
        return [*((left + number) // stage.passes for number in range(stage.passes)), *others]

    return Mixture(sources, counts, stage.epochs)


def make_loaders(
    data: Data,
    stage: StageConfig,
    config: Config,
    batching: Batching,
    stride: int,
    memory: MemoryModel | None = None,
    context: DistributedContext = SINGLE_PROCESS,
) -> tuple[Loader, Loader]:
    """The loaders of a stage: what it trains on, and what it is validated on.

    stride: of the encoder, in pixels.   memory: what a step needs, where it was measured.
    """
    _require_boxes(data, stage)
    limit = config.training.validation_images
    train = _training_images(data, stage, config)
    if stage.images == "standard":
        kind, validation = "standard", data.standard("validation", STANDARD, limit=limit)
    else:
        kind, validation = "ink", data.ink("validation", limit=limit)
    share = {"rank": context.rank, "world_size": context.world_size}
    plan = EpochPlan(seed=config.seed, stride=stride, chosen=train.chosen, **share)
    if batching == "fixed":
        sampler = FixedBatchSampler(train.sizes, config.batch.batch_size, config.batch.pool, plan)
    else:
        max_pixels = config.batch.max_pixels
        if max_pixels == "auto":
            max_pixels = memory.max_pixels if memory else config.batch.cpu_max_pixels
        cost = BatchCost(
            lengths=train.lengths if memory else None,
            token_cost=memory.token_cost if memory else 0.0,
            partner_sizes=train.partner_sizes,
        )
        batch = config.batch
        sampler = AdaptiveBatchSampler(train.sizes, max_pixels, batch.max_samples, cost, plan=plan, shapes=batch.shapes)
    items = Items(train, stage.images, config.seed, with_boxes=bool(_needs_boxes(stage)))
    pin_memory = torch.cuda.is_available()  # what lies there is copied to a GPU while it computes
    return Loader(items, sampler, config.data.workers, pin_memory), reading_loader(validation, stride, kind, **share)


def reading_loader(
    images: ImageSource, stride: int, kind: Kind = "ink", max_images: int = READING_IMAGES, **share: int
) -> Loader:
    """Every image once, the same way each time, in batches of like size.   share: rank and world_size."""
    sampler = AdaptiveBatchSampler(
        images.sizes(0, 0),
        READING_PIXELS,
        max_images,
        mixing=0,
        plan=EpochPlan(shuffle=False, stride=stride, **share),
    )
    return Loader(Items(images, kind, 0), sampler)


def open_split_loader(
    folder: Path,
    split: str,
    about: dict,
    stride: int,
    store: ImageStore | None = None,
    max_images: int = READING_IMAGES,
) -> tuple[Vocabulary, Loader]:
    """A split to be read by a checkpoint that says `about` itself. Raises DataError when there is no such split.

    store: its images, where they are open already.   max_images: in a batch.
    """
    prepare_if_needed(folder)
    if not (folder / split / "labels.txt").exists():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/labels.txt")))
        raise DataError(f"{folder}: no split {split}; there are: {known}")
    vocabulary = Vocabulary(about["vocabulary"])
    if store is None:
        store = open_split(folder, split, vocabulary)
    images = HandwrittenImages(store, np.arange(len(store)), _scaling(about["data"]))
    return vocabulary, reading_loader(images, stride, max_images=max_images)
