"""data.chinese_font: the font that draws the Chinese of labels, from the config to the images."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path

from dataset.images.standard import STANDARD, VARIED, LayoutCache, StandardImages, renderer_version
from dataset.loading.loaders import check_chinese_font, open_data
from dataset.vocabulary import Vocabulary
from tests.made_up_ink import settings, write_ink
from utils.config.loading import load_config
from utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
FONTS = Path(get_data_path()) / "fonts" / "ttf"
FRAMES = str(FONTS / "LastResortHE-Regular.ttf")  # has a frame for every character, Chinese included
LATIN = str(FONTS / "DejaVuSans.ttf")


def data_with_chinese(folder: Path, **changes):
    """Ten labels in ink, and one more in Chinese."""
    write_ink(folder)
    labels = folder / "train" / "labels.txt"
    for number in range(3):
        shutil.copy(folder / "train" / "images" / "ink_0_0.png", folder / "train" / "images" / f"zh_{number}.png")
    labels.write_text(labels.read_text() + "".join(f"zh_{number}\t中 = 文\n" for number in range(3)), encoding="utf-8")
    words = (folder / "vocabulary.txt").read_text().split()
    (folder / "vocabulary.txt").write_text("\n".join([*words, "中", "文"]) + "\n", encoding="utf-8")
    return open_data(settings(folder, validation_share=0.01, **changes), folder.name, 0)


def test_the_config_names_the_font(tmp_path):
    config = load_config(ROOT / "config.yaml", "HME100K", None, ["data.chinese_font=fonts/zh.ttf"])
    assert config.data.chinese_font == "fonts/zh.ttf"
    assert load_config(ROOT / "config.yaml", "HME100K").data.chinese_font is None


def test_labels_with_chinese_have_standard_images_and_boxes_once_a_font_is_named(tmp_path, capsys):
    without = data_with_chinese(tmp_path / "INK").standard("train", STANDARD)
    told = capsys.readouterr().err
    assert "left out, cannot be drawn: 中 = 文 (token 0: Chinese needs a font to draw '中': name a font file in" in told
    data = open_data(settings(tmp_path / "INK", validation_share=0.01, chinese_font=FRAMES), "INK", 0)
    for styles in (STANDARD, VARIED):
        images = data.standard("train", styles)
        assert len(images) == len(without) + 1 and not images.failures
        (index,) = (index for index in range(len(images)) if images.name(index) == "中 = 文")
        image, boxes = images.image(index, 0, 0), images.boxes(index, 0, 0)
        assert image.shape == tuple(images.sizes(0, 0)[index])
        assert np.isfinite(boxes).all()
        for left, top, right, bottom in np.round(boxes).astype(int):
            assert image[top : bottom + 1, left : right + 1].any()


def test_synthetic_ink_draws_chinese_in_a_simulated_hand(tmp_path, capsys):
    ink = data_with_chinese(tmp_path / "INK", chinese_font=FRAMES).synthetic_ink()
    assert {"中", "文"} <= set(ink.simulated)
    (index,) = (index for index in range(len(ink)) if ink.name(index) == "中 = 文")
    assert ink.image(index, 0, 0).any() and np.isfinite(ink.boxes(index, 0, 0)).all()


def test_layouts_of_another_font_are_kept_apart_and_outdated_ones_go(tmp_path):
    vocabulary = Vocabulary(["中", "x"])
    plain = StandardImages([["x"]], vocabulary, tmp_path, STANDARD, progress=False)
    outdated = tmp_path / "cm-000000000000-00000000"
    outdated.mkdir()
    framed = StandardImages([["中"]], vocabulary, tmp_path, replace(STANDARD, chinese_font=FRAMES), progress=False)
    latin = StandardImages([["中"]], vocabulary, tmp_path, replace(STANDARD, chinese_font=LATIN), progress=False)
    assert (len(plain), len(framed), len(latin)) == (1, 1, 0)
    assert f"the font {LATIN} lacks '中'" in latin.failures[0][1]
    assert not outdated.exists()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 3 and all(re.fullmatch(f"cm-{renderer_version()}(-[0-9a-f]{{8}})?", name) for name in names)
    cache = LayoutCache(tmp_path, "cm", chinese_font=FRAMES)
    kind, arguments = cache.__reduce__()
    assert kind(*arguments).folder == cache.folder  # in a loader's worker


def test_a_font_that_is_missing_or_none_or_lacks_characters_is_a_clear_error(tmp_path):
    tokens = ["x", r"\frac", "中", "文", "、"]
    check_chinese_font(FRAMES, tokens)
    check_chinese_font(LATIN, ["x", "、"])  # drawn with what comes along
    with pytest.raises(ConfigError, match="^data.chinese_font: none.ttf: not found; expected a font file"):
        check_chinese_font("none.ttf", tokens)
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(ConfigError, match="^data.chinese_font: .*no.ttf' cannot be read as a font"):
        check_chinese_font(str(tmp_path / "no.ttf"), ["x"])
    with pytest.raises(
        ConfigError, match="DejaVuSans.ttf lacks 2 characters of the vocabulary: 中 文; expected a font"
    ):
        check_chinese_font(LATIN, tokens)
