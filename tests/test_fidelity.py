r"""Our images beside those of real TeX: latex and dvipng (texlive-latex-base, dvipng, preview-latex-style in Debian).

They are needed only here; without them the tests skip. To see the images side by side, and what differs most:

    python -m tests.test_fidelity --labels labels.txt --count 2000 --out sheets/
"""

import argparse
import random
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.renderer import Style, render

EM = 50.0  # pixels
DOTS_PER_INCH = EM / 10 * 72.27  # an em of Computer Modern at 10 points
PER_RUN = 500
LIMITS = np.array([0.15, 0.10])  # of height and width

PREAMBLE = r"""\documentclass{article}
\usepackage{amsmath,amssymb}
\usepackage[active,tightpage,dvips]{preview}
\setlength\PreviewBorder{10pt}
\newcommand{\lt}{<}\newcommand{\gt}{>}
\begin{document}
"""

# Every structure that labels are made of. A, B and C are replaced by contents of several sizes.
TEMPLATES = r"""
A^{B}   A_{B}   A_{B}^{C}   {A}^{B^{C}}   x^{A}+y_{B}   A'   f''(A)   x'^{2}   f'_{A}   \left(A\right)^{B}   x_{A_{B}}
e^{-A^{B}}   \frac{A}{B}   \frac{A}{\frac{B}{C}}   \frac{\frac{A}{B}}{C}   x^{\frac{A}{B}}   \dfrac{A}{B}
\tfrac{A}{B}   1+\cfrac{A}{B+\cfrac{1}{C}}   \binom{A}{B}   \dbinom{A}{B}   \tbinom{A}{B}   \frac{A}{B}+C
x^{\binom{A}{B}}   \sqrt{A}   \sqrt[3]{A}   \sqrt[n]{\frac{A}{B}}   \sqrt{\sqrt{A}}   \sqrt{A+\sqrt{B}}   x^{\sqrt{A}}
\frac{\sqrt{A}}{B}   \sqrt{A^{B}}   \sum_{A}^{B}C   \sum A   \sum\limits_{A}^{B}   \sum\nolimits_{A}^{B}
\prod_{A}^{B}   \int_{A}^{B}C   \int\limits_{A}^{B}C   \oint_{A}B   \frac{\sum_{A}^{B}}{C}   \frac{\int_{A}^{B}}{C}
\bigcup_{A}^{B}   \bigcap_{A}   \bigoplus_{A}^{B}   \coprod_{A}^{B}   \bigvee_{A}   x^{\sum A}   \lim_{A}B
\lim\limits_{A}B   \max_{A}B   \min_{A}   \sup_{A}   \log_{A}B   \sin^{A}B   \cos A   \tan(A)   \limsup_{A}
\arctan A   \operatorname{foo}A   \det A   \ln A   \gcd(A,B)   \exp A   \frac{\lim_{A}B}{C}   \hat{A}   \widehat{A}
\tilde{A}   \widetilde{A}   \bar{A}   \vec{A}   \dot{A}   \ddot{A}   \check{A}   \acute{A}   \grave{A}   \breve{A}
\overline{A}   \underline{A}   \overline{A+B}   \overrightarrow{A}   \overleftarrow{A}   \hat{x}^{A}   \bar{x}_{A}
\vec{v}+A   \overbrace{A+B}^{C}   \underbrace{A+B}_{C}   \overbrace{A}   \underbrace{A}   \xrightarrow{A}
\xrightarrow[A]{B}   \xleftarrow{A}   \overset{A}{B}   \underset{A}{B}   \stackrel{A}{=}   \overset{A}{=}B
\underset{A}{\rightarrow}   \boxed{A}   \boxed{A+B}   \left(A\right)   \left[A\right]   \left\{A\right\}
\left|A\right|   \left\|A\right\|   \left\langle A\right\rangle   \left\lfloor A\right\rfloor
\left\lceil A\right\rceil   \left.A\right|_{B}   \left(A\middle|B\right)   \left(\frac{A}{B}\right)
\left[\frac{A}{\frac{B}{C}}\right]   \left\{\frac{A}{B}\right\}   \left|\frac{A}{B}\right|   \bigl(A\bigr)
\Bigl[A\Bigr]   \biggl\{A\biggr\}   \Biggl(A\Biggr)   \left(\sum_{A}^{B}\right)   \begin{matrix}A&B\\ B&C\end{matrix}
\begin{pmatrix}A&B\\ C&A\end{pmatrix}   \begin{bmatrix}A\\ B\\ C\end{bmatrix}   \begin{vmatrix}A&B\\ C&1\end{vmatrix}
\begin{Bmatrix}A&B\end{Bmatrix}   \begin{Vmatrix}A&B\end{Vmatrix}   \begin{array}{cc}A&B\\ C&0\end{array}
\begin{array}{l|r}A&B\\ C&0\end{array}   \begin{cases}A&B\\ C&0\end{cases}   \begin{aligned}A&=B\\ C&=0\end{aligned}
\sum_{\substack{A\\ B}}C   \left(\begin{array}{c}A\\ B\end{array}\right)   \text{if}A   \mathrm{A}   \mathbf{A}
\mathbb{R}^{A}   \mathcal{F}(A)   \mathfrak{g}A   \mathit{A}   \boldsymbol{x}A   \mathsf{A}   \mathtt{A}   A\not=B
A\notin B   A\quad B   A\,B\;C   A\!B   A\qquad B   A\ B   A\pmod{B}   A\bmod B   A,B,C   (A;B)   [A:B]   A!   A?
A/B   A|B   A\rightarrow B   A\Rightarrow B   A\leftrightarrow B   A\longrightarrow B   A\mapsto B   A\iff B
A\uparrow B   A\hookrightarrow B   A\leq B\geq C   A\neq B   A\approx B   A\equiv B   A\sim B   A\cong B   A\propto B
A\perp B   A\parallel B   A\subset B   A\subseteq B   A\in B   A\times B   A\div B   A\pm B   A\cdot B   A\cup B
A\cap B   A\oplus B   A\otimes B   A\circ B   A\ast B   A\wedge B   A\vee B   -A   A-B   \alpha A   \Gamma A
\partial A   \nabla A   \infty+A   \forall A\exists B   \ldots A   A\cdots B   \vdots   \ddots   \emptyset A   \hbar A
\angle A   \triangle A   \therefore A   \because A   A\leqslant B   A\geqslant B   \square A   \Re A   \ell_{A}
\varnothing   \varphi A   \aleph_{A}
"""
PLACE = re.compile(r"(?<![A-Za-z\\])[ABC](?![A-Za-z])")
CONTENTS = [
    ("a", "b", "c"),
    ("x+1", "2", "n"),
    ("k^{2}", "y_{i}", "z"),
    ("\\frac{1}{x}", "n-1", "3"),
    ("M", "\\beta", "10"),
]


def structure_labels(count: int) -> list[str]:
    """Every template once, with its first contents, and then others at random up to `count`."""
    templates = [template for line in TEMPLATES.split("\n") for template in line.split("   ") if template]
    labels = [[fill(template, contents) for template in templates] for contents in CONTENTS]
    others = [label for round_ in labels[1:] for label in round_ if label not in templates]
    generator = random.Random(1)
    if count <= len(templates):
        return generator.sample(labels[0], count)
    return labels[0] + generator.sample(others, count - len(templates))


def fill(template: str, contents: tuple[str, str, str]) -> str:
    return PLACE.sub(lambda place: contents["ABC".index(place[0])], template)


def crohme_labels(path: Path, count: int) -> list[str]:
    labels = sorted({line.split("\t")[-1] for line in path.read_text().splitlines()})
    return random.Random(0).sample(labels, min(count, len(labels)))


def typeset_with_tex(labels: list[str], folder: Path) -> list[np.ndarray | None]:
    """Images by real TeX, dark on light, cropped to their ink; None where TeX refuses the label."""
    images = []
    for start in range(0, len(labels), PER_RUN):
        batch = labels[start : start + PER_RUN]
        work = folder / f"run{start}"
        work.mkdir(parents=True)
        pages = "\n".join(rf"\begin{{preview}}$\displaystyle {label}$\end{{preview}}" for label in batch)
        (work / "labels.tex").write_text(PREAMBLE + pages + "\n\\end{document}\n")
        latex = ["latex", "-interaction=nonstopmode", "labels.tex"]
        log = subprocess.run(latex, cwd=work, capture_output=True, timeout=300).stdout.decode("latin-1")
        refused = refused_pages(log, PREAMBLE.count("\n") + 1)
        dvipng = [
            "dvipng",
            "-T",
            "tight",
            "-D",
            f"{DOTS_PER_INCH:.0f}",
            "-bg",
            "White",
            "-o",
            "page%d.png",
            "labels.dvi",
        ]
        subprocess.run(dvipng, cwd=work, capture_output=True, timeout=600)
        for page in range(len(batch)):
            image = cv2.imread(str(work / f"page{page + 1}.png"), cv2.IMREAD_GRAYSCALE)
            images.append(None if page in refused else crop(image))
    return images


def refused_pages(log: str, first_line: int) -> set[int]:
    """Pages on which TeX reported an error, from those lines of its log that name a line of the file."""
    return {int(line) - first_line for line in re.findall(r"^l\.(\d+) ", log, re.MULTILINE)}


def crop(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image.min(axis=1) < 128)[0], np.nonzero(image.min(axis=0) < 128)[0]
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def ink_size(image: np.ndarray) -> tuple[int, int]:
    return crop(image).shape


class Comparison:
    """What differs between TeX's images and ours.

    labels, theirs, ours: of those that TeX accepts.   refused: the labels that it does not.
    errors: (N, 2), how much higher and wider ours are, as a share of TeX's; the first two pixels, which rounding may
    cost, are forgiven, or no minus sign could be judged.
    """

    def __init__(self, labels: list[str], folder: Path):
        images = dict(zip(labels, typeset_with_tex(labels, folder), strict=True))
        self.refused = [label for label, image in images.items() if image is None]
        self.labels = [label for label, image in images.items() if image is not None]
        self.theirs = [images[label] for label in self.labels]
        self.ours = [render(label, Style(em=EM)) for label in self.labels]
        sizes = np.array([ink_size(image) for image in self.theirs], float)
        difference = np.array([ink_size(image) for image in self.ours]) - sizes
        self.errors = np.sign(difference) * np.maximum(np.abs(difference) - 2, 0) / sizes
        self.good = (np.abs(self.errors) <= LIMITS).all(axis=1)
        self.good_to_the_pixel = (np.abs(difference / sizes) <= LIMITS).all(axis=1)

    def worst(self, count: int = 10) -> list[int]:
        return np.argsort(-np.abs(self.errors / LIMITS).max(axis=1))[:count].tolist()

    def describe(self, index: int) -> str:
        height, width = self.errors[index]
        return f"height {height:+.0%}, width {width:+.0%}: {self.labels[index]}"

    def sheet(self, indices: list[int]) -> np.ndarray:
        """TeX's image at the left, ours at the right, a line for each label."""
        pairs = [(self.theirs[index], self.ours[index][4:-4, 4:-4]) for index in indices]
        left, right = (max(pair[side].shape[1] for pair in pairs) + 24 for side in (0, 1))
        lines = []
        for theirs, ours in pairs:
            line = np.full((max(theirs.shape[0], ours.shape[0]) + 20, left + right), 255, np.uint8)
            line[10 : 10 + theirs.shape[0], 8 : 8 + theirs.shape[1]] = theirs
            line[10 : 10 + ours.shape[0], left + 8 : left + 8 + ours.shape[1]] = ours
            line[-1], line[:, left] = 200, 200
            lines.append(line)
        return np.concatenate(lines)


needs_tex = pytest.mark.skipif(
    shutil.which("latex") is None or shutil.which("dvipng") is None, reason="no latex and dvipng to compare with"
)


@needs_tex
def test_crohme_labels_are_as_large_as_real_tex_makes_them(shared_data, tmp_path):
    comparison = Comparison(crohme_labels(shared_data / "CROHME" / "train" / "labels.txt", 300), tmp_path)
    assert not comparison.refused
    assert comparison.good.mean() > 0.99, [comparison.describe(index) for index in comparison.worst()]
    assert np.abs(np.median(comparison.errors, axis=0)).max() < 0.01


@needs_tex
def test_every_structure_is_as_large_as_real_tex_makes_it(tmp_path):
    comparison = Comparison(structure_labels(300), tmp_path)
    assert not comparison.refused
    assert comparison.good.mean() > 0.98, [comparison.describe(index) for index in comparison.worst()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our images with those of latex and dvipng.")
    parser.add_argument(
        "--labels", help="labels.txt (name<TAB>tokens), or labels alone; default: labels of all structures"
    )
    parser.add_argument("--count", type=int, default=300, help="labels, drawn at random (default: %(default)s)")
    parser.add_argument("--out", default="", help="folder for contact sheets: the worst, and all")
    options = parser.parse_args()
    labels = crohme_labels(Path(options.labels), options.count) if options.labels else structure_labels(options.count)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(labels, Path(folder))
    count = len(comparison.labels)
    print(f"{count} labels; {len(comparison.refused)} that TeX refuses: {comparison.refused[:5]}")
    print(f"within 15 % of the height and 10 % of the width: {comparison.good.mean():.2%}", end=" ")
    print(f"({comparison.good_to_the_pixel.mean():.2%} without forgiving two pixels)")
    print("median difference: height {:+.2%}, width {:+.2%}".format(*np.median(comparison.errors, axis=0)))
    for index in comparison.worst():
        print(" ", comparison.describe(index))
    if options.out:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / "worst.png"), comparison.sheet(comparison.worst(30)))
        for start in range(0, count, 40):
            sheet = comparison.sheet(list(range(start, min(start + 40, count))))
            cv2.imwrite(str(out / f"sheet{start // 40:03d}.png"), sheet)


if __name__ == "__main__":
    main()
