"""The repository as a whole: imports go downward, names exist, documents are true."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import uniadgen
from uniadgen.__main__ import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "uniadgen"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A module may import what stands before its own part, and its own part.
ORDER = (
    "records",
    "config",
    "recipes",
    "world",
    "data",
    "model",
    "engine",
    "pipeline",
    "desk",
    "train",
    "metrics",
    "baselines",
    "evaluate",
    "speed",
    "traffic",
    "ahead",
    "options",
    "precision",
    "standin",
    "gpucases",
    "gpubench",
    "files",
    "demo",
)
ORDER += ("__main__",)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "uniadgen":
            found |= {
                f"{node.module}.{alias.name}" if node.module == "uniadgen" else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "uniadgen"}
    return found


def test_every_part_of_the_package_has_its_place() -> None:
    assert {part_of(name_of(path)) for path in MODULES} - {""} == set(ORDER)


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(name_of(p))], ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    own = ORDER.index(part_of(name_of(path)))
    upward = {module for module in imported(path) if part_of(module) and ORDER.index(part_of(module)) > own}
    assert upward == set()


def test_no_two_modules_import_each_other() -> None:
    imports = {name_of(path): imported(path) for path in MODULES if part_of(name_of(path))}
    left = dict(imports)
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}


def test_records_need_no_torch() -> None:
    script = "import sys, uniadgen.records, uniadgen.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_public_names_are_those_that_can_be_imported() -> None:
    assert uniadgen.__all__ == sorted(uniadgen.__all__, key=lambda name: (not name.isupper(), name))
    assert all(getattr(uniadgen, name) is not None for name in uniadgen.__all__)
    declared = next(
        node
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    assert {alias.name for node in declared.body for alias in node.names} == set(uniadgen.__all__)


def test_a_public_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'uniadgen' has no attribute 'Advert'"):
        uniadgen.Advert  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_in_one_sentence_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no docstring"
    first = docstring.splitlines()[0]
    assert re.fullmatch(r"\S.*[.]", first), first
    assert not re.search(r"[.] [A-Z]", first), f"more than one sentence: {first}"
    assert len(docstring.splitlines()) == 1 or docstring.splitlines()[1] == "", "the first line goes on"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_can_be_imported(path: Path) -> None:
    if path.stem in ("kernels_cuda", "fused", "attending"):
        pytest.importorskip("triton", reason="a GPU's kernels need Triton")
    importlib.import_module(name_of(path))


# documents


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """What the README's bash blocks run, one list of words each, comments and continued lines resolved."""
    blocks = re.findall(r"```bash\n(.*?)```", readme(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def test_the_readme_shows_the_commands() -> None:
    assert {words[0] for words in commands()} == {"make", "uniadgen", "pip"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_readme_exists_with_its_options(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[1] == "install" and re.fullmatch(r"uniadgen\[(.+)\]", words[2])[1] in extras
        return
    path = words[1:3] if words[1] in ("world", "convert", "data", "bench") else words[1:2]
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0, result.output
    known = set(re.findall(r"--[a-z][a-z0-9-]*", result.output))
    assert {word for word in words if word.startswith("--")} <= known


def test_the_settings_of_the_readme_can_be_set() -> None:
    from uniadgen.config import override, parse_overrides
    from uniadgen.recipes import recipe

    shown = [words for words in commands() if "--set" in words and words[1] == "train"]
    assert shown
    for words in shown:
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        override(recipe(words[2]), parse_overrides(settings))


def test_the_python_of_the_readme_names_what_exists() -> None:
    blocks = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "uniadgen":
                assert {alias.name for alias in node.names} <= set(uniadgen.__all__)


DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_files_and_names_of_the_paper_map_exist() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    for path, name in re.findall(r"`((?:data|model|engine|train|world)/\w+\.py)`(?: `(\w+)`)?", text):
        assert (PACKAGE / path).is_file(), path
        assert not name or name in (PACKAGE / path).read_text(), f"{name} in {path}"
    for module, name in re.findall(r"`(records|recipes|config|history)\.(\w+)`", text):
        home = PACKAGE / ("data/history.py" if module == "history" else f"{module}.py")
        assert name in home.read_text(), f"{module}.{name}"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.~/])/(?:home|root|Users|work|mnt|tmp)/[\w.-]")
    found = []
    for path in tracked():
        data = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in data and pattern.search(data.decode("utf-8")):
            found.append(str(path.relative_to(ROOT)))
    assert found == []
