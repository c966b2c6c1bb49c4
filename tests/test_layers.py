"""Who may import whom: tools <- memory <- actors, learners <- cluster, and Ray in cluster/ only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "tools": {"tools"},
    "memory": {"tools", "memory"},
    "actors": {"tools", "memory", "actors"},
    "learners": {"tools", "memory", "learners"},
    "cluster": {"tools", "memory", "actors", "learners", "cluster"},
}
HEAVY = ("ray", "faiss", "torch", "transformers", "mlflow", "matplotlib")
VALUES = (
    "trajectory", "codec", "replay", "task", "fence", "log", "rows", "sampler", "segment", "remembered", "select", "episodes",
    "recall",
)  # fmt: skip
NO_TORCH = [*sorted((ROOT / "tools").glob("*.py")), *(ROOT / "memory" / f"{name}.py" for name in VALUES)]


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, what is wrong with the way it is imported, or nothing) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            relative = "a relative import" if node.level else ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "pixelis" else [base]
            yield from ((name, relative) for name in names)


def broken(folder: str, source: str) -> list[str]:
    """The rules that a file of a folder breaks."""
    out: list[str] = []
    for module, wrong in imported(ast.parse(source)):
        first, _, rest = module.partition(".")
        target = rest.split(".")[0]
        if wrong:
            out.append(f"{wrong} of {module}")
        elif first in ALLOWED:
            out.append(f"bare import of {module}: a second copy of pixelis.{module}")
        elif first == "tests" or first.startswith("test_"):
            out.append(f"import of {module}: test doubles must be out of reach")
        elif first == "pixelis" and target not in ALLOWED[folder]:
            out.append(f"{folder} must not import {module}")
        elif first == "ray" and folder != "cluster":
            out.append(f"{folder} must not import ray")
    return out


def at_top(source: str) -> set[str]:
    """Packages imported when the module is, by itself: not inside functions, not for type checkers only."""
    names: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                visit(node.orelse)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                names.update(name.partition(".")[0] for name, _ in imported(node))
            for part in ("body", "orelse", "finalbody"):
                visit(getattr(node, part, []))

    visit(ast.parse(source).body)
    return names


@pytest.mark.parametrize("folder", ALLOWED)
def test_every_file_keeps_the_import_order(folder: str) -> None:
    files = sorted((ROOT / folder).glob("**/*.py"))
    assert files
    found = {f.name: rules for f in files if (rules := broken(folder, f.read_text()))}
    assert not found


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("tools", "from pixelis.memory.task import Task"),
        ("memory", "import pixelis.actors.engine"),
        ("actors", "from pixelis.learners.loss import grpo"),
        ("learners", "from pixelis.actors import engine"),
        ("learners", "from pixelis import cluster"),
        ("actors", "import ray"),
        ("memory", "def f():\n    from ray.actor import ActorHandle"),
        ("cluster", "import tools.frame"),
        ("cluster", "from memory.task import Task"),
        ("actors", "from .engine import Engine"),
        ("actors", "from . import engine"),
        ("cluster", "from tests.fakes_media import png"),
        ("cluster", "if True:\n    import test_loop"),
    ],
)
def test_the_guard_sees_what_is_forbidden(folder: str, source: str) -> None:
    assert broken(folder, source)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("tools", "import raylib\nfrom pixelis.tools.frame import View"),
        ("cluster", "import ray\nfrom ray.rllib import x\nfrom pixelis.actors import engine"),
        ("actors", "from pixelis.memory.task import Task"),
    ],
)
def test_the_guard_lets_pass_what_is_allowed(folder: str, source: str) -> None:
    assert not broken(folder, source)


def test_values_and_tools_do_not_need_torch() -> None:
    found = {f.name: heavy for f in NO_TORCH if (heavy := at_top(f.read_text()) & {"torch", "ray", "transformers"})}
    assert not found
    assert at_top("class A:\n    import torch") == at_top("try:\n    import torch\nfinally:\n    pass") == {"torch"}
    assert not at_top("if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch")


def test_an_installed_package_holds_no_tests() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(f"pixelis.{folder}" for folder in [*ALLOWED, "configs"])
    assert settings["package-dir"] == {"pixelis": "."}


LOOK = """
import sys
from pixelis.cluster import cli
sys.argv = ["pixelis", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", sorted({m.partition(".")[0] for m in sys.modules} & set(HEAVY)), file=sys.stderr)
"""


DOCTOR = pytest.param(["doctor"], marks=pytest.mark.slow)  # it looks at torch, in a process of its own


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["tool", "--help"], ["replay", "--help"], DOCTOR])
def test_the_command_line_answers_without_anything_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = LOOK.replace("HEAVY", repr(HEAVY))
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout
    assert done.stderr.strip().splitlines()[-1] == "heavy: []", done.stderr
