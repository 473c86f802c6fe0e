"""The house rules that a tool can check: sizes, what imports what, and what stays out of the fast path."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("medgrpo", "tasks", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULE_LINES = 400
FUNCTION_LINES = 60
HEAVY = ("torch", "transformers", "mlflow", "prefect", "datasets", "pandas")
LIGHT = ("medgrpo.config", "medgrpo.gate", "medgrpo.answer", "medgrpo.judge", "medgrpo.rewards", "medgrpo.audit.audit")
LIGHT += ("medgrpo.data", "medgrpo.cli")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def run(code: str) -> str:
    """What a fresh Python prints, in the repository: there this tree is imported, whichever one is installed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40
    assert {name(path).split("/")[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE_LINES, "split the module where its caption needs an 'and'"
    long = {
        function.name: lines(function) for function in functions(ast.parse(text)) if lines(function) > FUNCTION_LINES
    }
    assert not long


def test_the_ruler_measures_functions_inside_classes_and_functions() -> None:
    body = "\n".join(["        x = 1"] * FUNCTION_LINES)
    tree = ast.parse(f"class C:\n    async def f(self):\n{body}\n")
    assert [lines(function) for function in functions(tree)] == [FUNCTION_LINES + 1]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_servers_folder_is_no_package() -> None:
    assert (ROOT / "mlflow").is_dir()
    assert list((ROOT / "mlflow").rglob("*.py")) == []


def test_import_mlflow_is_the_library_also_from_the_repository() -> None:
    found = Path(run("import mlflow; print(mlflow.__file__)"))
    assert "site-packages" in found.parts
    assert not found.is_relative_to(ROOT / "mlflow")


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    assert json.loads(run(code)) == []


def test_the_check_for_heavy_modules_sees_one() -> None:
    code = f"import sys, medgrpo.gate, pandas; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run(code) == "['pandas']"


# --- import contracts

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts, to break."""
    if not LINT.is_file():
        pytest.skip("lint-imports is not installed beside this Python: pip install import-linter")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run([LINT, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_tree_keeps_its_contracts(copied: Path) -> None:
    code, said = lint(copied)
    assert code == 0, said
    assert " 0 broken" in said


@pytest.mark.parametrize(
    ("module", "added", "contract"),
    [
        ("medgrpo/gate/decide.py", "import prefect", "medgrpo doesn't know Prefect"),
        ("medgrpo/rewards/correct.py", "from prefect import flow", "medgrpo doesn't know Prefect"),
        (
            "medgrpo/evaluation/evaluate.py",
            "import mlflow",
            "only tracking, stage runs, traces and registry use MLflow",
        ),
        ("tasks/train.py", "import mlflow", "only tracking, stage runs, traces and registry use MLflow"),
        ("medgrpo/evaluation/evaluate.py", "import tasks.train", "flows stand on tasks, tasks on medgrpo"),
        ("medgrpo/config.py", "import flows.local", "flows stand on tasks, tasks on medgrpo"),
        ("tasks/train.py", "import flows.pipeline", "flows stand on tasks, tasks on medgrpo"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(copied: Path, module: str, added: str, contract: str) -> None:
    path = copied / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{added}\n", encoding="utf-8")
    code, said = lint(copied)
    assert code != 0
    assert f"{contract} BROKEN" in " ".join(said.split())
