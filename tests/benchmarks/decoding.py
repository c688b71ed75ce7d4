"""How fast the decoders learn and read.

    python tests/benchmarks/decoding.py loop                                   GRU decoder against the plain loop
    python tests/benchmarks/decoding.py beam --split datasets/CROHME/2014      cached search against re-run prefixes
    python tests/benchmarks/decoding.py small                                  the small preset: learning and reading
    python tests/benchmarks/decoding.py full --threads 2                       the full model: seconds an image

Weights are random. In all but `loop` every text is made to end at its label's own length, as a trained network
would end it. Times are CPU times of this process, so that other processes disturb them less.
"""

import argparse
import sys
import time
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.decoders.gru import GRUDecoder  # noqa: E402
from models.decoders.interface import DecoderState  # noqa: E402
from models.losses import counting_loss, label_loss  # noqa: E402
from models.recognizer import Recognizer  # noqa: E402
from models.search import beam_search, greedy  # noqa: E402
from utils.script import keep_freed_memory  # noqa: E402
from utils.special_tokens import END, START  # noqa: E402

VOCABULARY = 113
# A small network.
SMALL_ENCODER = {"growth": 16, "layers": (4, 10), "dropout": 0.1}
SMALL = {
    "gru": {"hidden": 192, "embedding": 128, "attention": 64, "coverage_kernel": 7, "dropout": 0.2},
    "gru-location": {
        "hidden": 192,
        "embedding": 128,
        "attention": 96,
        "coverage_kernel": 7,
        "location": 24,
        "dropout": 0.2,
    },
    "transformer": {"width": 128, "heads": 4, "layers": 2, "feed_forward": 512, "dropout": 0.1},
}


class EndsOnTime:
    """A decoder whose texts end at given lengths (B,)."""

    def __init__(self, decoder, lengths: torch.Tensor):
        self.decoder, self.lengths, self.directions = decoder, lengths, decoder.directions

    def start(self, features, padding, counts=None):
        constant, past = self.decoder.start(features, padding, counts)
        return DecoderState(constant | {"lengths": self.lengths}, past | {"written": torch.zeros_like(self.lengths)})

    def step(self, state, tokens):
        written = state.past["written"]
        logits, (constant, past), attention = self.decoder.step(state, tokens)
        lengths = state.image["lengths"].repeat_interleave(len(tokens) // len(state.image["lengths"]))
        logits[:, [START, END]] = torch.where(written >= lengths, 100.0, -100.0)[:, None]
        past = past | {"written": written + 1}
        return logits, DecoderState(constant | {"lengths": state.image["lengths"]}, past), attention

    def __call__(self, *arguments):
        return self.decoder(*arguments)


class ReRun:
    """A decoder without a cache: every step runs the whole prefix again."""

    def __init__(self, decoder):
        self.decoder, self.directions = decoder, decoder.directions

    def start(self, features, padding, counts=None):
        constant = {"features": features, "padding": padding} | ({} if counts is None else {"counts": counts})
        return DecoderState(constant, {"tokens": torch.zeros(len(features), 0, dtype=torch.long)})

    def step(self, state, tokens):
        tokens = torch.cat([state.past["tokens"], tokens[:, None]], 1)
        constant = state.image
        decoded = self.decoder(constant["features"], constant["padding"], tokens, constant.get("counts"))
        return decoded.logits[:, -1].clone(), DecoderState(constant, {"tokens": tokens}), decoded.attention[:, -1]

    def __call__(self, *arguments):
        return self.decoder(*arguments)


def seconds(work, repeats: int = 5) -> float:
    """The median time of `work` in CPU seconds, divided by the threads that share it; the first run does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / torch.get_num_threads())
    return sorted(times[1:])[repeats // 2]


def loop() -> None:
    from tests.plain import PlainGRUDecoder

    for name, sizes, cells in (
        ("paper", {}, (684, 7, 19)),
        ("small", SMALL["gru"], (212, 7, 19)),
    ):
        torch.manual_seed(0)
        decoder = GRUDecoder(VOCABULARY, cells[0], **sizes)
        features, padding = torch.randn(8, *cells), torch.zeros(8, *cells[1:], dtype=torch.bool)
        features.requires_grad_()
        counts, tokens = torch.rand(8, VOCABULARY), torch.randint(3, VOCABULARY, (8, 40))
        fast = seconds(lambda: decoder(features, padding, tokens, counts).logits.sum().backward())  # noqa: B023
        loop = PlainGRUDecoder(decoder)
        plain = seconds(lambda: loop(features, padding, tokens, counts).logits.sum().backward())  # noqa: B023
        print(f"{name} sizes, 8 images, 40 tokens, forward and backward: {fast:.3f} s, plain loop {plain:.3f} s, "
              f"{plain / fast:.2f} x")  # fmt: skip


def open_images(split: Path, count: int, scale: float) -> list[tuple[torch.Tensor, int, str]]:
    """The first images of a split in the plain form, ink 1 on paper 0, the lengths of their labels, and names."""
    from utils.reading.images import normalize_image, read_image, resize

    items = []
    for line in (split / "labels.txt").read_text(encoding="utf-8").splitlines()[:count]:
        name, label = line.split("\t")
        image = resize(normalize_image(read_image(next((split / "images").glob(f"{name}.*")))), scale)
        items.append((torch.from_numpy(image) / 255, len(label.split()), name))
    return items


def by_size(items: list[tuple[torch.Tensor, int, str]], size: int) -> list[tuple[torch.Tensor, int, str]]:
    """Strips of like width, and by height in a strip: so batches of `size` pad little."""
    strips = max(1, round((len(items) / size) ** 0.5))
    length = size * -(-len(items) // (size * strips))
    items = sorted(items, key=lambda item: item[0].shape[1])
    parts = (items[first : first + length] for first in range(0, len(items), length))
    return [item for part in parts for item in sorted(part, key=lambda item: item[0].shape[0])]


def batches(items: list[tuple[torch.Tensor, int, str]], size: int, random: Random | None = None):
    """Images of about the same size together, or at random: images, padding, lengths, names."""
    items = random.sample(items, len(items)) if random else by_size(items, size)
    for first in range(0, len(items), size):
        part = items[first : first + size]
        height, width = (max(image.shape[side] for image, *_ in part) for side in (0, 1))
        images = torch.zeros(len(part), 1, height, width)
        padding = torch.ones(len(part), height, width, dtype=torch.bool)
        for i, (image, *_) in enumerate(part):
            images[i, 0, : image.shape[0], : image.shape[1]] = image
            padding[i, : image.shape[0], : image.shape[1]] = False
        yield images, padding, torch.tensor([length for _, length, _ in part]), [name for *_, name in part]


@torch.no_grad()
def beam(split: Path, count: int, width: int) -> None:
    items = open_images(split, count, 0.5)
    for kind in ("transformer", "gru"):
        torch.manual_seed(0)
        network = Recognizer(VOCABULARY, SMALL_ENCODER, kind, SMALL[kind], domains=("handwritten",)).eval()
        spent, texts = {}, {}
        for name, wrap in (("cached", lambda decoder: decoder), ("prefix re-run", ReRun)):
            spent[name], texts[name] = 0.0, []
            for images, padding, lengths, _ in batches(items, 10):
                features, padding, counts = network.encode(images, padding, "handwritten")
                decoder = EndsOnTime(wrap(network.decoder), lengths)
                start = time.process_time()
                found = beam_search(decoder, features, padding, counts, beam=width)
                spent[name] += (time.process_time() - start) / torch.get_num_threads()
                texts[name] += [hypothesis.tokens for hypothesis in found]
        same = sum(one == other for one, other in zip(*texts.values(), strict=True))
        print(f"{kind}, beam {width}, {network.decoder.directions} direction(s), {len(items)} images: "
              f"cached {spent['cached']:.1f} s, prefix re-run {spent['prefix re-run']:.1f} s, "
              f"{spent['prefix re-run'] / spent['cached']:.1f} x; {same} readings equal")  # fmt: skip


@torch.no_grad()
def full(split: Path, count: int, width: int) -> None:
    """Seconds on the clock, the encoder and the padding of batches of 32 included; images from all over the split."""
    items = open_images(split, 1_000_000, 1.0)
    items = items[:: max(1, len(items) // count)]
    for kind in ("transformer", "gru"):
        torch.manual_seed(0)
        network = Recognizer(VOCABULARY, {"layers": (16, 16, 16)}, kind, {}, 512 if kind == "gru" else 0,
                             domains=("handwritten",)).eval()  # fmt: skip
        for name, search in (("greedy", greedy), (f"beam {width}, {network.decoder.directions} direction(s)", None)):
            spent = 0.0
            for images, padding, lengths, _ in batches(items, 32):
                started = time.perf_counter()
                features, cells, counts = network.encode(images, padding, "handwritten")
                decoder = EndsOnTime(network.decoder, lengths)
                if search:
                    search(decoder, features, cells, counts)
                else:
                    beam_search(decoder, features, cells, counts, beam=width)
                spent += time.perf_counter() - started
            peak = getrusage(RUSAGE_SELF).ru_maxrss / 2**20  # GiB so far, where Linux counts KiB
            print(f"{kind}, {name}, {torch.get_num_threads()} thread(s), {len(items)} images: "
                  f"{1000 * spent / len(items):.0f} ms an image; peak memory {peak:.1f} GiB", flush=True)  # fmt: skip


def small(tokens: int = 16, height: int = 52, width: int = 152) -> None:
    for kind in ("gru", "transformer"):
        torch.manual_seed(0)
        counting = 32 if kind == "gru" else 0
        network = Recognizer(VOCABULARY, SMALL_ENCODER, kind, SMALL[kind], counting, domains=("handwritten",))
        size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        for batch in (8, 32):
            images = (torch.rand(batch, 1, height, width) > 0.9).float()
            padding = torch.zeros(batch, height, width, dtype=torch.bool)
            labels, lengths = torch.randint(3, VOCABULARY, (batch, tokens)), torch.full((batch,), tokens)

            def learn(arguments=(images, padding, labels, lengths)):
                taught = network(*arguments)  # noqa: B023
                loss = label_loss(taught)
                if taught.counts is not None:
                    loss = loss + counting_loss(taught.counts, arguments[2])
                loss.backward()

            @torch.no_grad()
            def read(arguments=(images, padding, lengths)):
                images, padding, lengths = arguments
                features, padding, counts = network.encode(images, padding, "handwritten")  # noqa: B023
                greedy(EndsOnTime(network.decoder, lengths), features, padding, counts)  # noqa: B023

            learning = batch / seconds(network.train() and learn)
            reading = batch / seconds(network.eval() and read)
            print(f"{kind}, {size:.2f} M parameters, batch {batch}, {torch.get_num_threads()} thread(s): "
                  f"learns {learning:.0f} images/s, reads {reading:.0f} images/s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loop", "beam", "small", "full"])
    parser.add_argument("--split", type=Path, default=Path("datasets/CROHME/2014"), help="a split in the plain form")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--beam", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.what == "loop":
        loop()
    elif options.what == "beam":
        beam(options.split, options.images, options.beam)
    elif options.what == "full":
        full(options.split, options.images, options.beam)
    else:
        small()


if __name__ == "__main__":
    main()
