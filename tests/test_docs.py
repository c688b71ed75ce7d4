"""The documentation: every link, path, script and flag in it exists, and the README is short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/training.md", "docs/reading.md", "docs/data.md", "docs/own-data.md",
         "docs/demo.md", "docs/export.md", "datasets/README.md", "checkpoints/README.md", "results/README.md",
         "tests/benchmarks/README.md")  # fmt: skip
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
# A path in backticks: one that begins with a folder of ours, or a file of the kinds that stand at the top level.
PATH = re.compile(r"(?:dataset|models|utils|tests|results|docs)/[\w./-]*|[\w-]+\.(?:py|yaml|cff)")
MADE_BY_THE_READER = {"models/decoders/dot_gru.py", "checkpoints/2014"}
COMMAND = re.compile(r"(?:python|--) (?:-m ([\w.]+)|([\w/]+\.py))((?:[^\n]*\\\n)*[^\n]*)")
each_page = pytest.mark.parametrize("page", PAGES)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_links(page: str) -> list[str]:
    folder, missing = (ROOT / page).parent, []
    for link in LINK.findall(text_of(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path) if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    return missing


def missing_paths(page: str) -> list[str]:
    """Paths in backticks that exist neither from the top level nor beside the page."""
    found = [code for code in CODE.findall(text_of(page)) if PATH.fullmatch(code)]
    folders = (ROOT, (ROOT / page).parent)
    written_by_runs = {"config.yaml"}  # in a run's folder, as well as at the top level
    known = MADE_BY_THE_READER | written_by_runs
    return [path for path in found if path not in known and not any((folder / path).exists() for folder in folders)]


@cache
def flags_of(script: Path, depth: int = 2) -> frozenset[str]:
    """The flags that a script adds to its parser, itself or in the files of ours that it imports from."""
    tree, flags = ast.parse(script.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            flags |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.ImportFrom) and node.module and depth:
            imported = ROOT / f"{node.module.replace('.', '/')}.py"
            flags |= flags_of(imported, depth - 1) if imported.is_file() else set()
    return frozenset(flag for flag in flags if isinstance(flag, str) and flag.startswith("--"))


def wrong_commands(page: str) -> list[str]:
    wrong = []
    for module, script, arguments in COMMAND.findall(text_of(page)):
        if module in ("venv", "pip", "pytest"):
            continue
        path = ROOT / (script or f"{module.replace('.', '/')}.py")
        if not path.is_file():
            wrong.append(f"{path.relative_to(ROOT)}: no such script")
            continue
        shown = re.findall(r"(?<=\s)--[a-z][a-z-]*", arguments.split("#")[0].split("`")[0])
        wrong += [f"{path.relative_to(ROOT)} {flag}" for flag in shown if flag not in flags_of(path)]
    return wrong


@each_page
def test_every_relative_link_leads_somewhere(page):
    assert missing_links(page) == []


@each_page
def test_every_path_in_backticks_exists(page):
    assert missing_paths(page) == []


@each_page
def test_every_command_names_a_script_and_flags_that_exist(page):
    assert wrong_commands(page) == []


def test_the_pages_have_links_paths_and_commands_to_check():
    text = "".join(map(text_of, PAGES))
    assert len(LINK.findall(text)) > 20 and len(COMMAND.findall(text)) > 40
    assert sum(bool(PATH.fullmatch(code)) for code in CODE.findall(text)) > 20


def test_every_flag_in_backticks_belongs_to_some_script():
    scripts = [*ROOT.glob("*.py"), *ROOT.glob("tests/benchmarks/*.py")]
    known = set().union(*map(flags_of, scripts))
    shown = {code.split()[0] for page in PAGES for code in CODE.findall(text_of(page)) if code.startswith("--")}
    assert shown - known - {"--"} == set()


def test_the_readme_has_at_most_a_thousand_words():
    assert len(text_of("README.md").split()) <= 1000
