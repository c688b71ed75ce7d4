"""Training by time: how long a stage has been trained, and how long it may be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from utils.config.schema import StageConfig


class TrainingClock:
    """Seconds of training: reading batches and taking steps, never validating, saving or starting up.

    kind: "wall": of the day.
        "cpu": of the CPU, in all threads of this process. Of several processes, the first one's clock counts for all;
        the time of a loader's workers is not counted (data.workers: 0 has none).
        "steps": every step counts step_seconds, however long it took, so that a run can be repeated exactly.
    """

    def __init__(self, kind: str = "wall", step_seconds: float = 1.0):
        self.kind, self.step_seconds = kind, step_seconds
        self.wall = self.cpu = 0.0
        self.steps = 0
        self._since: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Of training so far, as this kind of clock counts them."""
        return {"wall": self.wall, "cpu": self.cpu, "steps": self.steps * self.step_seconds}[self.kind]

    def start(self) -> None:
        """Go on counting; nothing where the clock runs already."""
        if self._since is None:
            self._since = time.monotonic(), time.process_time()

    def tick(self) -> None:
        """A step is done."""
        self.steps += 1
        self._count()

    def stop(self) -> None:
        """Stop counting until start()."""
        if self._since is not None:
            self._count()
            self._since = None

    def cost_of_validation(self, wall: float, cpu: float, batches: int) -> float:
        """Seconds of a validation as this clock would count them; a batch counts as a step."""
        return {"wall": wall, "cpu": cpu, "steps": batches * self.step_seconds}[self.kind]

    def state_dict(self) -> dict[str, float]:
        return {"wall": self.wall, "cpu": self.cpu, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.wall, self.cpu, self.steps = state["wall"], state["cpu"], int(state["steps"])

    def _count(self) -> None:
        now = time.monotonic(), time.process_time()
        self.wall += now[0] - self._since[0]
        self.cpu += now[1] - self._since[1]
        self._since = now


def stage_seconds(
    minutes: float | None, stages: Sequence[StageConfig], index: int, used: Mapping[str, float]
) -> float | None:
    """Seconds of training that a stage is given of a run's minutes; None where it is trained by epochs.

    used: seconds that stages have used, by name. What the stages before have left is shared between this one and
    those after it, in proportion to their `share`, or to their `epochs` where no share is given.
    """
    if minutes is None:
        return None
    left = 60 * minutes - sum(used.get(stage.name, 0.0) for stage in stages[:index])
    weights = [stage.epochs if stage.share is None else stage.share for stage in stages]
    return max(left, 0.0) * weights[index] / sum(weights[index:])


def describe_time(seconds: float) -> str:
    """A duration for a person: `42 s`, `7.5 min`, `3.1 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def validation_is_affordable(spent: float, last: float, trained: float, max_share: float) -> bool:
    """Whether one more validation, as long as the last, keeps all of them below their share of the time.

    spent: seconds of all validations so far.   trained: seconds of training so far.
    """
    return (spent + last) * (1 - max_share) <= trained * max_share
