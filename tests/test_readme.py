"""The README's tree names every file of the folders, with the first line of its docstring."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for f in ("tools", "memory", "actors", "learners", "cluster", "bench") for p in (ROOT / f).glob("*.py"))


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_tree_says_what_a_file_is(path: Path) -> None:
    says = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    assert f"  {path.name:<20} {says}\n" in (ROOT / "README.md").read_text()
