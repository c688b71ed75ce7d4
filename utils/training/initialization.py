"""What a run starts from: untrained weights, or those of a checkpoint, whose network and tokens it then takes over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.loading import WeightsSettings
from utils.config.schema import StageConfig
from utils.errors import CheckpointError
from utils.project import for_config, from_root
from utils.reading.checkpoints import best_weights
from utils.training.run_folder import Checkpoint, load_checkpoint

SHOWN_TOKENS = 8  # of those that weights or data lack, so many are named


def find_weights(path: str | Path) -> Path:
    """A checkpoint itself, or of a run's folder the best weights of its last stage that has any.

    Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [best for best in best_weights(path) if best.is_file()]
    if not found:
        raise CheckpointError(f"{path}: this run has no best weights of any stage yet")
    return found[-1]


def load_network(path: str | Path) -> Checkpoint:
    """A checkpoint; the first network of one that has several, which read together. Raises CheckpointError."""
    checkpoint = load_checkpoint(path)
    if "networks" not in checkpoint.about["architecture"]:
        return checkpoint
    prefix = "networks.0."
    weights = {name.removeprefix(prefix): x for name, x in checkpoint.weights.items() if name.startswith(prefix)}
    try:
        networks = checkpoint.about["architecture"]["networks"]
        about = checkpoint.about | {"architecture": networks[0], "first_of": len(networks)}
    except (LookupError, TypeError):
        raise CheckpointError(f"{path}: describes networks that this version does not know") from None
    return Checkpoint(checkpoint.path, weights, about)


def settings_of_weights(path: str | Path) -> WeightsSettings:
    """What a configuration must say for a run that starts from these weights. Raises CheckpointError."""
    path = find_weights(path)
    about = load_network(path).about
    try:
        architecture, decoder = about["architecture"], about["architecture"]["decoder"]
        model = {
            "encoder": dict(architecture["encoder"]),
            "decoder": decoder,
            "counting": architecture["counting"],
            decoder: dict(architecture["decoder_options"]),
        }
        data = {"image_scale": about["data"]["image_scale"], "scales": about["data"].get("scales", [1.0])}
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: describes a network that this version does not know ({reason})") from error
    return WeightsSettings(for_config(path), {"model": model, "data": data})


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    tokens: that its vocabulary begins with.   checkpoint: None: untrained weights, or the run has gone on from its
    start already.
    """

    tokens: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, init: str | None, resumed: Path | None) -> Start:
        """init: weights, as the configuration names them.   resumed: the folder of a run that is being continued."""
        if init is None:
            return cls()
        if resumed and (resumed / "state.pt").exists():
            return cls(tuple((resumed / "vocabulary.txt").read_text(encoding="utf-8").splitlines()))
        checkpoint = load_network(from_root(init))
        return cls(tuple(map(str, checkpoint.about["vocabulary"])), checkpoint)

    def load_into(self, model: Any) -> None:
        """Give a network the weights, if there are any. Raises CheckpointError where they are another network's."""
        if self.checkpoint is None:
            return
        try:
            model.start_from(self.checkpoint.weights, self.checkpoint.about["architecture"]["vocabulary_size"])
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.checkpoint.path}: weights of another model: {reason}") from error

    def describe(self, own_tokens: Sequence[str], stages: Sequence[StageConfig]) -> Iterator[str]:
        """What a person should know about it, a line each.   own_tokens: of the data set."""
        if self.checkpoint is None:
            return
        about = self.checkpoint.about
        stage = f", stage {about['stage']}" if about.get("stage") else ""
        first_of = f", the first of its {about['first_of']} networks" if "first_of" in about else ""
        yield f"starts from {for_config(self.checkpoint.path)}{stage}{first_of}"
        new = sorted(set(own_tokens) - set(self.tokens))
        if new:
            yield f"new to the weights, and untrained: {_some(new)}"
        lacking = [token for token in self.tokens if token not in set(own_tokens)]
        if lacking:
            yield f"known to the weights alone: {_some(lacking)}; they stay, but nothing in the data recalls them"
        domains = {name.removesuffix("_encoder") for name in (key.partition(".")[0] for key in self.checkpoint.weights)}
        yield from _about_encoders(domains, stages)
        if "backwards" in domains and (replacing := [stage.name for stage in stages if stage.starts_from_decoder]):
            copy = "a copy of the other one (starts_from_decoder)"
            yield f"stage {replacing[0]} replaces the decoder that reads backwards by {copy}"


def _some(tokens: Sequence[str]) -> str:
    rest = " …" if len(tokens) > SHOWN_TOKENS else ""
    return f"{len(tokens)} token{'s' if len(tokens) > 1 else ''} ({' '.join(tokens[:SHOWN_TOKENS])}{rest})"


def _about_encoders(domains: Collection[str], stages: Sequence[StageConfig]) -> Iterator[str]:
    """What happens to the encoders of the weights.   domains: among others, the kinds of images that have one."""
    standard = [stage.name for stage in stages if stage.images in ("standard", "pairs")]
    if standard and "standard" not in domains:
        yield (
            f"the weights have no encoder of standard images, which stage {standard[0]} needs: it begins as a copy of "
            "the handwritten one"
        )
    if "handwritten" not in domains:
        yield "the weights have no handwritten encoder: it begins as a copy of the standard one"
    elif replacing := [stage.name for stage in stages if stage.starts_from_standard]:
        yield (
            f"stage {replacing[0]} replaces the handwritten encoder by the standard one (starts_from_standard); "
            "--preset finetune goes on with ink alone"
        )
