"""The library: a checkpoint reads an image, and says how sure it is and where it looked."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataset.vocabulary import Vocabulary
from models.recognizer import Ensemble, Recognizer
from recognize import Reader, Reading, language
from tests.made_up_ink import encoded, written
from utils.errors import CheckpointError, ConfigError, DataError
from utils.hypotheses import Hypothesis
from utils.reading.images import normalize_image
from utils.training.run_folder import save_checkpoint

VOCABULARY = [*"abcdexyz12+="]
DATA = {"image_scale": 0.5, "max_height": 200, "max_width": 400}
GRU = {"hidden": 16, "embedding": 12, "attention": 16, "coverage_kernel": 3, "dropout": 0.1}
OPTIONS = {
    "gru": GRU,
    "gru-location": GRU | {"location": 4, "symbols": True},
    "transformer": {"width": 16, "heads": 2, "layers": 2, "feed_forward": 32, "dropout": 0.1},
}
both_decoders = pytest.mark.parametrize("kind", ["gru", "transformer"])


def recognizer(
    kind: str = "gru", domains=("standard", "handwritten"), seed: int = 0, backwards: bool = False
) -> Recognizer:
    torch.manual_seed(seed)
    encoder = {"layers": (2, 2), "growth": 6, "dropout": 0.0}
    decoder, counting = kind.partition("-")[0], 0 if kind == "transformer" else 8
    network = Recognizer(
        len(VOCABULARY) + 3, encoder, decoder, OPTIONS[kind], counting, domains=domains, backwards=backwards
    )
    for parameter in network.parameters():  # readings that differ from image to image, and tokens of their own
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return network.eval()


def ensemble() -> Ensemble:
    """Two networks of different parts that read together."""
    return Ensemble([recognizer("gru-location", ["handwritten"]), recognizer("gru", ["handwritten"], seed=3)]).eval()


def reader(kind: str = "gru", **data) -> Reader:
    return Reader(recognizer(kind), Vocabulary(VOCABULARY), {**DATA, **data}, language())


def saved(path: Path, network: Recognizer | Ensemble, **changes) -> Path:
    about = {"architecture": network.architecture(), "vocabulary": VOCABULARY, "data": DATA, **changes}
    save_checkpoint(path, network.state_dict(), about)
    return path


# ---- Recognizer.explain ----------------------------------------------------------------------------------------------


def some_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Three images of different sizes: images (3, 1, 40, 96) and padding."""
    images, padding = torch.rand(3, 1, 40, 96).round(), torch.zeros(3, 40, 96, dtype=torch.bool)
    padding[1, :, 50:] = True
    padding[2, 20:] = True
    return images.masked_fill(padding[:, None], 0), padding


READINGS = [[3, 4, 5, 6, 7], [8, 3], [9, 9, 4]]


def as_labels(readings: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, L), padded with 0, and their lengths (B,)."""
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(reading) for reading in readings], batch_first=True)
    return labels, torch.tensor([len(reading) for reading in readings])


@both_decoders
@torch.no_grad()
def test_an_image_alone_is_explained_as_inside_a_batch(kind):
    network = recognizer(kind)
    images, padding = some_images()
    together = network.explain(images, padding, READINGS)
    for i, reading in enumerate(READINGS):
        height, width = (~padding[i]).any(1).sum(), (~padding[i]).any(0).sum()
        [alone] = network.explain(images[i : i + 1, :, :height, :width], padding[i : i + 1, :height, :width], [reading])
        assert alone.attention.shape == together[i].attention.shape == (len(reading), -(-height // 8), -(-width // 8))
        assert (alone.attention - together[i].attention).abs().max() < 1e-4
        assert (alone.confidences - together[i].confidences).abs().max() < 1e-4


@both_decoders
@torch.no_grad()
def test_confidences_are_the_probabilities_that_teaching_gives(kind):
    network = recognizer(kind)
    images, padding = some_images()
    taught = network(images, padding, *as_labels(READINGS))
    for i, explanation in enumerate(network.explain(images, padding, READINGS)):
        row = taught.logits[i * network.decoder.directions].softmax(-1)
        wanted = [float(row[position, token]) for position, token in enumerate(READINGS[i])]
        assert explanation.confidences.tolist() == pytest.approx(wanted, rel=1e-4)
        attention = explanation.attention.sum((1, 2))
        assert torch.allclose(attention, torch.ones_like(attention), atol=1e-4)


@both_decoders
@torch.no_grad()
def test_an_empty_reading_can_be_explained(kind):
    images, padding = some_images()
    explanations = recognizer(kind).explain(images, padding, [[], [3], []])
    assert [len(explanation.confidences) for explanation in explanations] == [0, 1, 0]


# ---- Reader ----------------------------------------------------------------------------------------------------------


@both_decoders
def test_a_reading_says_what_the_network_read(kind, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(written()))
    one = reader(kind)
    reading = one.read(path)
    assert isinstance(reading, Reading)
    image = torch.from_numpy(reading.image)[None, None] / 255
    padding = torch.zeros(1, *reading.image.shape, dtype=torch.bool)
    [hypothesis] = one.model.read(image, padding)
    [explanation] = one.model.explain(image, padding, [hypothesis.tokens])
    assert reading.tokens == tuple(VOCABULARY[token - 3] for token in hypothesis.tokens)
    assert reading.latex == " ".join(reading.tokens) and reading.tokens
    assert reading.confidences == pytest.approx(explanation.confidences.tolist(), rel=1e-4)
    assert reading.confidence == pytest.approx(np.prod(reading.confidences), rel=1e-4)
    assert reading.is_truncated == hypothesis.is_truncated
    assert reading.score == pytest.approx(hypothesis.score, rel=1e-4)
    assert len(reading.boxes) == len(reading.tokens)


@both_decoders
def test_many_images_are_read_as_each_alone_and_in_their_order(kind):
    one = reader(kind)
    images = [written(seed, height, width) for seed, (height, width) in
                enumerate([(60, 150), (60, 400), (90, 150), (50, 90), (60, 390)])]  # fmt: skip
    together = one.read_many(images)
    assert len({reading.latex for reading in together}) > 1
    for image, reading in zip(images, together, strict=True):
        alone = one.read(image)
        assert (alone.tokens, alone.boxes) == (reading.tokens, reading.boxes)
        assert alone.confidence == pytest.approx(reading.confidence, rel=1e-3)


def test_all_kinds_of_images_are_read_alike(tmp_path):
    grey = written()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(grey))
    color = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.dstack([color, np.full_like(grey, 255)])
    one = reader()
    latex = one.read(grey).latex
    for image in (path, str(path), path.read_bytes(), Image.open(path), 255 - grey, color, opaque):
        assert one.read(image).latex == latex


def test_a_beam_gives_alternatives_and_greedy_none():
    one = reader("transformer")
    reading = one.read(written(), beam=4)
    assert 1 <= len(reading.alternatives) <= 3
    assert all(other.latex != reading.latex for other in reading.alternatives)
    scores = [reading.score, *(other.score for other in reading.alternatives)]
    assert scores == sorted(scores, reverse=True)
    assert one.read(written()).alternatives == ()


def test_the_network_sees_the_size_that_training_saw():
    image = written(0, 60, 150)
    assert reader(image_scale=1.0).read(image).image.shape == normalize_image(image).shape
    assert np.array_equal(reader(image_scale=1.0).read(image).image, normalize_image(image))
    wide = reader(image_scale=1.0, max_width=64).read(image).image
    assert wide.shape[1] == 64


@pytest.mark.parametrize("shift", [(0, 0), (37, 90)])
def test_boxes_are_where_the_decoder_looked_in_the_given_image(shift, monkeypatch):
    """An attention that is all in the cell over a dot gives a box over that dot, wherever the image was cropped."""
    down, right = shift
    image = np.zeros((120 + down, 300 + right), np.uint8)
    cv2.circle(image, (40 + right, 60 + down), 16, 255, 3)
    cv2.circle(image, (240 + right, 60 + down), 16, 255, 3)
    one = reader()
    explain = one.model.explain_encoded

    def looks_right(encoded, readings):
        [explanation] = explain(encoded, readings)
        attention = torch.zeros_like(explanation.attention)
        cells = one.prepare(image).views[0].image.shape[1] // one.model.handwritten_encoder.stride
        attention[:, 1, cells - 2] = 1
        return [explanation._replace(attention=attention)]

    monkeypatch.setattr(one.model, "explain_encoded", looks_right)
    for left, top, right_edge, bottom in one.read(image).boxes:
        assert 200 + right < left < right_edge <= 270 + right
        assert 30 + down < top < bottom <= 90 + down


def test_boxes_lie_inside_the_given_image():
    image = written(0, 60, 150)
    large = cv2.resize(255 - image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    for given in (image, large):
        for left, top, right, bottom in reader().read(given).boxes:
            assert 0 <= left < right <= given.shape[1] and 0 <= top < bottom <= given.shape[0]


def test_what_is_no_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.png").write_text("x ^ 2")
    with pytest.raises(DataError, match="a.png: is truncated or not an image"):
        reader().read(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"expected an array uint8 .* got float64 \(3, 4\)"):
        reader().read(np.zeros((3, 4)))
    with pytest.raises(DataError, match=r"expected an array uint8 .* got uint8 \(3, 4, 7\)"):
        reader().read(np.zeros((3, 4, 7), np.uint8))


def test_a_search_that_the_network_cannot_do_is_an_error():
    with pytest.raises(ConfigError, match="both directions .*: this network decodes from left to right only"):
        reader("gru").read(written(), directions=2)
    with pytest.raises(ConfigError, match="a beam of at least 1"):
        reader("gru").read(written(), beam=0)


def test_files_of_ink_and_strokes_are_drawn_and_read(tmp_path):
    strokes = [[(0, 0), (10, 40), (20, 0)], [(30, 0), (30, 40)]]
    traces = "".join(f"<trace>{', '.join(f'{x} {y}' for x, y in stroke)}</trace>" for stroke in strokes)
    (tmp_path / "a.inkml").write_text(f'<ink xmlns="http://www.w3.org/2003/InkML">{traces}</ink>')
    (tmp_path / "a.json").write_text(json.dumps({"strokes": strokes}))
    one = reader()
    wanted = one.read_strokes(strokes)
    assert wanted.latex and not wanted.is_cleaned
    for reading in (
        one.read(tmp_path / "a.inkml"),
        one.read(str(tmp_path / "a.json")),
        one.read_strokes([np.array(stroke, np.float32) for stroke in strokes]),
    ):
        assert np.array_equal(reading.image, wanted.image) and reading.latex == wanted.latex
    with pytest.raises(DataError, match=r"strokes: expected strokes \[\[\[x, y\]"):
        one.read_strokes([1, 2])
    with pytest.raises(DataError, match="image: expected a file, .* got list; read_strokes"):
        one.read(strokes)


def test_several_lines_are_warned_of_or_read_by_themselves():
    above, below = written(0), written(3)
    image = np.concatenate([above, np.zeros((40, 150), np.uint8), below])
    one = reader()
    assert one.read(image).warnings[0] == "2 lines of writing, read as one formula"
    lines = one.read_lines(image)
    assert [line.latex for line in lines] == [one.read(above).latex, one.read(below).latex]
    for top, bottom, line in ((0, 60, lines[0]), (100, 160, lines[1])):
        assert all(top <= box[1] < box[3] <= bottom for box in line.boxes)
    assert len(one.read_lines(above)) == 1


def test_what_is_cleaned_is_a_choice_that_a_checkpoint_can_make():
    drawn, photograph = written(), (240 - 0.7 * written()).astype(np.uint8)
    photograph[:, 50:] -= 30
    for when, expected in (("auto", (False, True)), ("always", (True, True)), ("never", (False, False))):
        found = tuple(reader().prepare(image, clean_when=when).is_cleaned for image in (drawn, photograph))
        assert found == expected, when
    assert not reader(clean="never").prepare(photograph).is_cleaned
    assert reader(clean="never").prepare(photograph, clean_when="always").is_cleaned


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_loaded_reader_reads_the_same_and_leaves_the_standard_encoder_on_the_disk(tmp_path):
    path = saved(tmp_path / "a.safetensors", recognizer())
    loaded = Reader.load(path)
    assert loaded.model.standard_encoder is None
    assert loaded.read(written()).latex == reader().read(written()).latex


def test_foreign_checkpoints_are_errors_that_name_them(tmp_path):
    network = recognizer()
    architecture = network.architecture()
    foreign = {
        "pickle": (tmp_path / "pickle.safetensors", None),
        "keys": (saved(tmp_path / "keys.safetensors", network, architecture={"layers": 3}), None),
        "sizes": (saved(tmp_path / "sizes.safetensors", network, architecture={**architecture, "counting": 4}), None),
        "words": (saved(tmp_path / "words.safetensors", network, vocabulary=VOCABULARY[:-2]), None),
        "data": (saved(tmp_path / "data.safetensors", network, data={}), None),
        "decoder": (saved(tmp_path / "decoder.safetensors", network, architecture={**architecture, "decoder": "x"}), 0),
    }
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.safetensors")
    for name, (path, _) in foreign.items():
        with pytest.raises(CheckpointError, match=rf"{name}\.safetensors: "):
            Reader.load(path)
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        Reader.load(tmp_path / "none.safetensors")


def test_a_checkpoint_is_plain_values(tmp_path):
    """Its description is JSON: nothing in it could run when it is read."""
    path = saved(tmp_path / "a.safetensors", recognizer())
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert isinstance(json.loads(header["__metadata__"]["about"]), dict)


class Explained:
    """All tokens are sure, and seen everywhere."""

    def __init__(self, length: int):
        self.confidences, self.attention = torch.ones(length), torch.full((length, 4, 10), 1 / 40)


@pytest.mark.parametrize(("prefers", "wanted"), [(True, "x + y"), (False, "x + ^")])
def test_of_close_hypotheses_the_first_that_latex_can_read_is_taken_unless_told_otherwise(prefers, wanted, monkeypatch):
    made = Reader(recognizer(), Vocabulary([*VOCABULARY, "^"]), DATA, language())
    ids = {latex: made.vocabulary.encode(latex.split()) for latex in ("x + ^", "x + y", "x y")}
    others = (Hypothesis(ids["x + y"], -0.12, False), Hypothesis(ids["x y"], -0.13, False))
    found = Hypothesis(ids["x + ^"], -0.1, False, others)
    monkeypatch.setattr(made.model, "read_encoded", lambda encoded, beam, directions: [found])
    monkeypatch.setattr(made.model, "explain_encoded", lambda encoded, tokens: [Explained(len(tokens[0]))])
    reading = made.read(written(), beam=3, prefer_well_formed=prefers)
    assert reading.latex == wanted
    assert {other.latex for other in reading.alternatives} == set(ids) - {wanted}
