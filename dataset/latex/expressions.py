r"""New labels from old ones: their trees are cut, joined, and exchange branches; their symbols change within a class.

    new = synthesize(train_labels, 100_000, seed=0, exclude=validation_labels + test_labels)

A standard image costs nothing but a label, so labels are worth making: a decoder that has seen many learns what LaTeX
looks like. The new ones are as long and as deeply nested as the old ones, or as a `target` asks. None of them is among
the old ones or the excluded ones. `open_expressions` keeps them in a file, with a manifest that says what was excluded.
"""

import hashlib
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from dataset.latex.parser import ALPHABETS, LatexError, parse, to_tokens, walk
from utils.files import atomic_write, hash64
from utils.progress import Progress

# Raise this when other labels are made from the same input.
VERSION = 1
# A symbol may become another one of its class, if the old labels know it.
CLASSES = (
    frozenset("0123456789"),
    frozenset("abcdefghijklmnopqrstuvwxyz"),
    frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    frozenset(
        r"""\alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \vartheta \iota \kappa \lambda \mu \nu \xi
        \pi \rho \sigma \tau \upsilon \phi \varphi \chi \psi \omega""".split()
    ),
    frozenset(r"\Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega".split()),
    frozenset(r"= < > \leq \geq \neq \le \ge \ne \approx \equiv \sim".split()),
    frozenset(r"+ - \pm \times \div \cdot".split()),
    frozenset(r"\sin \cos \tan \cot \sec \csc \log \ln \exp".split()),
    frozenset(r"\in \subset \subseteq \supset \supseteq \notin".split()),
)
CLASS = {token: symbols for symbols in CLASSES for token in symbols}
CHANGE = 0.4  # of names, and of other symbols of a class, so many change
RELATIONS, OPERATORS = CLASS["="], CLASS["+"]
NAMES = CLASS["a"] | CLASS["A"] | CLASS[r"\alpha"]  # a variable changes its name everywhere in a label
# Inside these, letters are not variables: units, column specifications, names of environments.
SPELLED = ALPHABETS | {r"\begin"}
# A cell (see `cell_of`) that fails to give a new label this often in a row has no more.
PATIENCE = 400

Tokens = tuple[str, ...]
Cell = tuple[int, int]


class Template(NamedTuple):
    """An old label: its tokens, its branches, and where it may be cut.

    branches: (role, start, stop), ranges of tokens.   cuts: (start, stop), what stands on one side of a relation.
    """

    tokens: Tokens
    branches: list[tuple[tuple, int, int]]
    cuts: list[tuple[int, int]]


def cell_of(tokens: Sequence[str]) -> Cell:
    """What `target` distributes: the length on a logarithmic scale, three steps an octave, and how deep braces nest."""
    depth = deepest = 0
    for token in tokens:
        if token == "{":
            depth += 1
            deepest = max(deepest, depth)
        elif token == "}":
            depth -= 1
    return round(3 * math.log2(len(tokens))), min(deepest, 5)


def profile(labels: Iterable[Sequence[str]]) -> dict[Cell, float]:
    """The share of labels in every cell: the default `target` of `synthesize`."""
    counts = Counter(cell_of(tokens) for tokens in labels)
    return {cell: count / counts.total() for cell, count in sorted(counts.items())}


def synthesize(
    labels: Iterable[Sequence[str]],
    count: int,
    seed: int,
    exclude: Iterable[Sequence[str]] = (),
    target: Mapping[Cell, float] | None = None,
    progress: bool = False,
) -> list[list[str]]:
    """`count` different new labels in canonical form, none of them in `labels` or in `exclude`; fewer where few labels
    give no more.

    labels: token lists; how often a branch or a symbol occurs in them is how often it is used.
    target: the share of new labels in every cell, as `profile` gives it. Where a cell has no more new labels (there are
    few of one token), the other cells fill the gap.
    The same arguments give the same labels.
    """
    templates = [template for tokens in labels if (template := read_template(tokens))]
    if not templates:
        return []
    maker = _Maker(templates, Random(seed))
    taken = {_number(template.tokens) for template in templates}
    for tokens in exclude:
        taken |= {_number(tokens), _number(canonical(tokens))}
    target = target or profile(template.tokens for template in templates)
    wanted = _quotas(target, count)
    failures: Counter[Cell] = Counter()
    made: list[list[str]] = []
    with Progress("new expressions", count, "label", progress) as bar:
        while len(made) < count:
            cell = maker.random.choices(list(wanted), list(wanted.values()))[0]
            tokens = maker.label(cell)
            reached, number = cell_of(tokens), _number(tokens)
            if wanted.get(reached) and number not in taken and is_balanced(tokens) and is_canonical(tokens):
                taken.add(number)
                made.append(list(tokens))
                failures[reached] = 0
                wanted[reached] -= 1
                bar.update()
                cell = reached
            else:
                failures[cell] += 1
            if wanted[cell] == 0:
                del wanted[cell]
            elif failures[cell] > PATIENCE:
                missing = wanted.pop(cell)
                others = {other: share for other, share in target.items() if failures[other] <= PATIENCE}
                for other, more in _quotas(others, missing).items():
                    wanted[other] = wanted.get(other, 0) + more
            if not wanted:
                break
    return made


def read_template(tokens: Sequence[str]) -> Template | None:
    """An old label in canonical form, or None where it is malformed or empty."""
    try:
        tree = parse(to_tokens(parse(tokens)))
    except LatexError:
        return None
    written = tuple(to_tokens(tree))
    if not written:
        return None
    branches = []
    for node in walk(tree):
        if node.kind in ("symbol", "space", "declaration", "row", "line"):
            continue
        # An index under a sum is another thing than an index of a letter.
        base = node.children[0] if node.kind == "scripts" else None
        name = base.name if base is not None and base.name.startswith("\\") else node.name
        branches.append(((node.kind, name), node.start, node.stop))
        for number, child in enumerate(node.children):
            if child is not None and child.kind == "row" and child.children:
                branches.append(((node.kind, name, number), child.start, child.stop))
    relations = [child.start for child in tree.children if child.name in RELATIONS]
    sides = zip([0, *(index + 1 for index in relations)], [*relations, len(written)], strict=True)
    return Template(written, branches, [side for side in sides if side[0] < side[1]])


def canonical(tokens: Sequence[str]) -> Tokens:
    """The canonical form of a label; a malformed one is its own."""
    try:
        return tuple(to_tokens(parse(tokens)))
    except LatexError:
        return tuple(tokens)


def is_canonical(tokens: Tokens) -> bool:
    """Whether a label is well formed, and written in the canonical form."""
    try:
        return tuple(to_tokens(parse(tokens))) == tokens
    except LatexError:
        return False


def is_balanced(tokens: Sequence[str]) -> bool:
    """Whether every bracket that opens is closed later, by one of any shape: intervals may be half open."""
    depth = 0
    for token in tokens:
        if token in ("(", "["):
            depth += 1
        elif token in (")", "]"):
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def _number(tokens: Sequence[str]) -> int:
    """64 bits that stand for a label: a million labels take little memory."""
    return hash64(" ".join(tokens).encode())


def _quotas(shares: Mapping[Cell, float], count: int) -> dict[Cell, int]:
    """Whole numbers in the proportion of `shares` that sum to `count`; cells that get none are left out."""
    total, so_far, given, quotas = sum(shares.values()), 0.0, 0, {}
    for cell, share in shares.items():
        so_far += share
        quota = round(count * so_far / total) - given
        given += quota
        if quota:
            quotas[cell] = quota
    return quotas


class _Maker:
    """Makes one label after the other; knows nothing of what is wanted or taken."""

    def __init__(self, templates: list[Template], random: Random):
        self.random = random
        self.templates = templates
        self.by_cell: dict[Cell, list[Template]] = defaultdict(list)
        self.bank: dict[tuple, list[Tokens]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for template in templates:
            self.by_cell[cell_of(template.tokens)].append(template)
            counts.update(template.tokens)
            for role, start, stop in template.branches:
                self.bank[role].append(template.tokens[start:stop])
        # Roots of the counts: rare symbols come up more often than they did, common ones stay common.
        self.symbols: dict[frozenset, tuple[list[str], list[float]]] = {}
        for symbols in CLASSES:
            known = sorted(symbols & counts.keys())
            self.symbols[symbols] = known, [math.sqrt(counts[token]) for token in known]
        self.joints = [token for token in sorted(RELATIONS | OPERATORS) if token in counts]
        self.joint_counts = [counts[token] for token in self.joints]

    def label(self, cell: Cell) -> Tokens:
        """A label that is likely to fall into `cell`; it may be an old one, or not in canonical form."""
        random = self.random
        chance = random.random()
        if self.joints and chance < 0.15:
            joint = random.choices(self.joints, self.joint_counts)[0]
            tokens = self.part(random.choice(self.templates)) + (joint,) + self.part(random.choice(self.templates))
        elif chance < 0.3:
            tokens = self.part(random.choice(self.templates))
        else:
            tokens = self.exchange(random.choice(self.by_cell.get(cell) or self.templates))
        return self.rename(tokens)

    def part(self, template: Template) -> Tokens:
        """One side of a relation, or a branch, or all of it; after an exchange of branches."""
        chance = self.random.random()
        if template.cuts and chance < 0.6:
            start, stop = self.random.choice(template.cuts)
        elif template.branches and chance < 0.8:
            _, start, stop = self.random.choice(template.branches)
        else:
            return self.exchange(template)
        return template.tokens[start:stop]

    def exchange(self, template: Template) -> Tokens:
        """Put one to three branches of other labels in the place of branches of the same kind."""
        tokens, end = template.tokens, len(template.tokens)
        chosen = self.random.sample(template.branches, min(len(template.branches), self.random.choice((1, 1, 2, 3))))
        for role, start, stop in sorted(chosen, key=lambda branch: -branch[1]):
            if stop <= end:  # from the right, each left of the last: no two overlap
                tokens = tokens[:start] + self.random.choice(self.bank[role]) + tokens[stop:]
                end = start
        return tokens

    def rename(self, tokens: Tokens) -> Tokens:
        """Change symbols within their class: a variable everywhere, other symbols one by one."""
        if not SPELLED.isdisjoint(tokens):
            return tokens
        names: dict[str, str] = {}
        renamed = []
        for token in tokens:
            symbols = CLASS.get(token)
            if symbols is None or len(self.symbols[symbols][0]) < 2:
                renamed.append(token)
            elif token in NAMES:
                if token not in names:
                    names[token] = self.another(symbols) if self.random.random() < CHANGE else token
                renamed.append(names[token])
            else:
                renamed.append(self.another(symbols) if self.random.random() < CHANGE else token)
        return tuple(renamed)

    def another(self, symbols: frozenset) -> str:
        return self.random.choices(*self.symbols[symbols])[0]


def digest(labels: Iterable[Sequence[str]]) -> str:
    """SHA-256 of a set of labels, whatever their order."""
    lines = sorted({" ".join(tokens) for tokens in labels})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def open_expressions(
    folder: str | Path,
    labels: Sequence[Sequence[str]],
    count: int,
    seed: int,
    exclude: Mapping[str, Sequence[Sequence[str]]],
    progress: bool = True,
) -> list[list[str]]:
    """`count` new labels from `folder`, made once: expressions-COUNT-SEED.txt, a label a line, and its manifest, .json.

    exclude: the labels of every split that must stay unseen, by the split's name. The manifest holds their number and
    digest; when these, the old labels or VERSION have changed, the file is made again.
    """
    path = Path(folder) / f"expressions-{count}-{seed}.txt"
    unseen = [tokens for part in exclude.values() for tokens in part]
    manifest = {
        "version": VERSION,
        "count": count,
        "seed": seed,
        "made_from": {"labels": len(labels), "sha256": digest(labels)},
        "excluded": {name: {"labels": len(part), "sha256": digest(part)} for name, part in exclude.items()},
    }
    about = json.dumps(manifest, indent=1)
    if path.exists() and path.with_suffix(".json").exists() and path.with_suffix(".json").read_text() == about:
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    made = synthesize(labels, count, seed, unseen, progress=progress)
    if len(made) < count:
        print(f"{folder}: only {len(made)} of {count} new labels can be made from {len(labels)}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The manifest goes first and comes last: it never stands beside a file that it does not describe.
    path.with_suffix(".json").unlink(missing_ok=True)
    atomic_write(path, "".join(" ".join(tokens) + "\n" for tokens in made))
    atomic_write(path.with_suffix(".json"), about)
    return made
