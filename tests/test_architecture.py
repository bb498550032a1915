"""Which package may import which, where heavy libraries may appear, and that the settings are documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("retrieval", "assistant", "eval", "finetune")
"""Each may import itself and those before it."""
HEAVY = {
    *("torch", "transformers", "faiss", "vllm", "sentence_transformers"),
    *("peft", "bitsandbytes", "datasets", "onnx", "onnxruntime", "sklearn"),
}
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that `tree` imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported, without those for type checkers only."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    package = path.parts[0]
    allowed = PACKAGES if path == Path("assistant/cli.py") else PACKAGES[: PACKAGES.index(package) + 1]
    found = {name.split(".")[0] for name in imports(parse(path))}
    assert found & {*PACKAGES, "benchmarks", "samples", "tests"} <= set(allowed)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nobody_imports_the_command_line(path: Path) -> None:
    assert "assistant.cli" not in set(imports(parse(path)))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_heavy_libraries_are_imported_where_they_are_needed_only(path: Path) -> None:
    for node in at_import(parse(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {name.split(".")[0] for name in imports(node)} & HEAVY, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_vllm_is_a_process_of_its_own_and_never_imported(path: Path) -> None:
    assert "vllm" not in {name.split(".")[0] for name in imports(parse(path))}


def test_the_readme_names_every_setting() -> None:
    from assistant.settings import Settings

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"ASSISTANT_{name.upper()}" not in readme] == []


def test_the_readme_names_every_field_of_the_recipe() -> None:
    from finetune.recipe import Recipe

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in Recipe.model_fields if f"`{name}`" not in readme] == []
