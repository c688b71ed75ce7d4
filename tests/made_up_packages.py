"""Small data sets as they are published: pickles, zips, folders and pen strokes, with the same labels and images."""

import pickle
import zipfile

import cv2
import numpy as np

LABELS = {
    "train": {"a_1": "x + y", "a_2": r"\frac { x } { y }", "b.3": "x"},
    "2014": {"c_1": "y + x", "c_2": "x", "c_3": "z"},
}


def ink(name, label):
    """A two-valued image, white on black, that differs from name to name."""
    image = np.zeros((30, 60), np.uint8)
    image[10:13, 12 : 20 + 3 * len(label)] = 255
    image[10 : 16 + sum(map(ord, name)) % 7, 12:15] = 255
    return image


def image(name, label, suffix, is_dark_ink=False):
    drawn = ink(name, label)
    return cv2.imencode(suffix, 255 - drawn if is_dark_ink else drawn)[1].tobytes()


def caption(split, separator="\t", suffix=""):
    return "".join(f"{name}{suffix}{separator}{label}\n" for name, label in LABELS[split].items())


def make_can(folder, is_dark_ink, separator, protocol=4, shape=lambda image: image):
    folder.mkdir()
    for split, prefix in (("train", "train"), ("2014", "14_test")):
        images = {name: ink(name, label) for name, label in LABELS[split].items()}
        images = {name: shape(255 - p if is_dark_ink else p) for name, p in images.items()}
        (folder / f"{prefix}_images.pkl").write_bytes(pickle.dumps(images, protocol))
        (folder / f"{prefix}_labels.txt").write_text(caption(split, separator))
    (folder / "words_dict.txt").write_text(
        "\n".join(["eos", "sos", "x", "y", "+", r"\frac", "{", "}", "unused"]) + "\n"
    )
    return folder


def make_comer(folder, inside="data/", images="img/", suffix=".bmp", is_dark_ink=False):
    folder.mkdir()
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("__MACOSX/data/train/._caption.txt", "x")
        for split in LABELS:
            archive.writestr(f"{inside}{split}/caption.txt", caption(split))
            for name, label in LABELS[split].items():
                archive.writestr(f"{inside}{split}/{images}{name}{suffix}", image(name, label, suffix, is_dark_ink))
    return folder / "data.zip"


def make_unpacked(folder, **kind):
    zipfile.ZipFile(make_comer(folder, **kind)).extractall(folder)
    (folder / "data.zip").unlink()
    return folder


def make_plain(folder):
    for split in LABELS:
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels.txt").write_text(caption(split))
        for name, label in LABELS[split].items():
            (folder / split / "images" / f"{name}.png").write_bytes(image(name, label, ".png"))
    return folder


def inkml(label, points="0 0, 10 10, 20 0"):
    return (
        '<ink xmlns="http://www.w3.org/2003/InkML">'
        f'<annotation type="truth">${label}$</annotation><trace id="0">{points}</trace></ink>'
    )
