"""Imports run one way, so that each part can be read and tested alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"models": {"dataset"}, "dataset": {"models"}, "utils": {"dataset", "models"}}


def imported(path: Path) -> set[str]:
    """Top-level names of all packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_do_not_import_each_other(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := imported(path) & FORBIDDEN[package])}
    assert not wrong


# ---- circles ---------------------------------------------------------------------------------------------------------


def is_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_modules(code: str, name: str, modules: set[str]) -> set[str]:
    """Which of the modules a module's code imports, anywhere in it but where only a type checker looks."""
    found, nodes = set(), [ast.parse(code)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        nodes += node.orelse if is_for_type_checking(node) else ast.iter_child_nodes(node)
    return (found & modules) - {name}


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next one, and the last the first; empty where there are none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        for other in sorted(imports[name] if name not in finished else ()):
            if circle := visit(other, [*path, name]):
                return circle
        finished.add(name)
        return []

    return next((circle for name in sorted(imports) if (circle := visit(name, []))), [])


def test_no_file_imports_itself_through_others():
    files = {path.relative_to(ROOT) for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")}
    files |= {path.relative_to(ROOT) for path in ROOT.glob("*.py")}
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    imports = {
        name: imported_modules((ROOT / path).read_text(encoding="utf-8"), name, set(names))
        for name, path in names.items()
    }
    assert len(imports) > 50
    assert circle_in(imports) == []


def test_a_circle_is_found_wherever_the_import_stands():
    files = {
        "a.b": "def f():\n    from a.c import x\n",
        "a.c": "if True:\n    from . import d\n",
        "a.d": "import a.b\n",
        "a.e": "if TYPE_CHECKING:\n    import a.e2\n",
        "a.e2": "import a.e\n",
    }
    imports = {name: imported_modules(code, name, set(files)) for name, code in files.items()}
    assert circle_in(imports) == ["a.b", "a.c", "a.d", "a.b"]
    del files["a.d"]
    assert circle_in({name: imported_modules(code, name, set(files)) for name, code in files.items()}) == []
