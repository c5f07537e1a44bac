"""The house itself: public names, what an import loads, sizes of rooms, optional packages, the README's commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

ROOT = Path(octavo.__file__).parent
REPOSITORY = ROOT.parent
SOURCES = sorted(ROOT.rglob("*.py"))


def test_public_names_exist_and_are_sorted() -> None:
    assert octavo.__all__ == sorted(octavo.__all__, key=lambda name: (name.startswith("_"), not name.isupper(), name))
    for name in octavo.__all__:
        assert getattr(octavo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        octavo.Llm  # noqa: B018


@pytest.mark.parametrize(
    "code", ["import octavo; octavo.SamplingParams", "import octavo.cli.main", "import octavo.config"]
)
def test_the_vocabulary_loads_no_torch(code: str) -> None:
    heavy = {"torch", "transformers", "huggingface_hub"}
    check = f"{code}; import sys; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_rooms_and_functions_keep_a_readable_size() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 600, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path}: {node.name}"


def test_every_room_says_what_it_is() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
        assert "utils" not in path.stem


def test_the_environment_is_read_in_one_module() -> None:
    readers = [path.name for path in SOURCES if re.search(r"os\.(environ|getenv)", path.read_text(encoding="utf-8"))]
    assert readers == ["envs.py"]


def test_optional_packages_are_imported_in_one_module_and_never_at_its_top() -> None:
    for package in ("transformers", "modelscope"):
        users = []
        for path in SOURCES:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {id(node): node for node in ast.walk(tree) if _imports(node, package)}
            if names:
                users.append(path)
                assert not any(id(node) in names for node in tree.body), f"{path} imports {package} when it is loaded"
        assert len(users) == 1, (package, users)


def test_one_room_knows_llguidance() -> None:
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    users = [name for name, tree in trees.items() if any(_imports(node, "llguidance") for node in ast.walk(tree))]
    assert users == ["matcher.py"]


def _imports(node: ast.AST, package: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == package
    return isinstance(node, ast.Import) and any(alias.name.split(".")[0] == package for alias in node.names)


def test_no_code_of_a_checkpoint_is_ever_run() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found = re.search(r"(?<![.\w])(eval|exec)\(|pickle\.load|trust_remote_code=True|weights_only=False", text)
        assert not found, path


def test_the_readmes_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))
    used = set(re.findall(r"\bmake ([a-z-]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert used
    assert used <= targets


def test_the_readmes_python_runs_as_far_as_names_go() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", readme, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("octavo"):
                for alias in node.names:
                    assert hasattr(octavo, alias.name)


@pytest.mark.parametrize("command", ["--help", "--version", "generate --help", "chat --help", "collect-env"])
def test_the_command_answers(command: str) -> None:
    run = [sys.executable, "-c", "from octavo.cli.main import main; main()", *command.split()]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "octavo" in result.stdout


def test_a_misspelt_flag_or_command_is_answered_with_the_right_one() -> None:
    run = [sys.executable, "-c", "from octavo.cli.main import main; main()"]
    for args, hint in ((["generate", "--tempreture", "1", "x"], "--temperature"), (["chatt"], "did you mean chat")):
        result = subprocess.run([*run, *args], capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert hint in result.stderr
