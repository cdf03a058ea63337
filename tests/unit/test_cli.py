"""The command line: what is wrong is said in one line, nothing is written, and the help teaches."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import TINY
from uniadgen import __main__, files
from uniadgen.__main__ import app

COMMANDS = ("generate", "train", "evaluate", "reproduce", "demo", "world sheet", "world log", "bench text")
COMMANDS += ("data validate", "data build")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path, product, monkeypatch) -> Path:
    """A person's folder: mug.png, red.png, history.json, and files that are wrong in many ways. Commands run there."""
    monkeypatch.chdir(tmp_path)
    product.cutout.save("mug.png")
    Image.new("RGB", (20, 20), "red").save("red.png")
    Image.new("RGBA", (20, 20)).save("nothing.png")
    Path("cut.png").write_bytes(Path("mug.png").read_bytes()[:150])
    Path("notes.txt").write_text("hello")
    Path("folder.png").mkdir()
    Path("history.json").write_text(json.dumps([{"picture": "red.png", "text": "kitchen mug"}] * 3))
    Path("broken.json").write_text("[{")
    Path("deep.json").write_text("[" * 100_000)
    Path("untitled.json").write_text('[{"picture": "red.png"}]')
    Path("lost.json").write_text('[{"picture": "gone.png", "text": "a mug"}]')
    return tmp_path


def ask(model: Path | str = "no-model", **changes: object) -> list[str]:
    """The arguments of a good request, some of them changed; None leaves one out."""
    options = {"product": "mug.png", "description": "A red mug.", "point": "kitchen mug", "history": "history.json"}
    options |= {"model": model, "out": "ad.png"} | changes
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return ["generate", *(str(part) for pair in given for part in pair)]


BAD_REQUESTS = [
    ({"product": "gone.png"}, "gone.png: no such file"),
    ({"product": "notes.txt"}, "notes.txt: not a picture"),
    ({"product": "cut.png"}, "cut.png: the picture is damaged or cut short"),
    ({"product": "red.png"}, "red.png: the picture has mode RGB without transparency"),
    ({"product": "nothing.png"}, "nothing.png: the product picture is fully transparent"),
    ({"product": "folder.png"}, "folder.png: no such file"),
    ({"description": ""}, "the product has no description"),
    ({"description": "x" * 3000}, "3000 characters, expected at most 2000"),
    ({"point": None}, "expected at least one"),
    ({"point": " "}, "none empty"),
    ({"history": "gone.json"}, "gone.json: no such file"),
    ({"history": "broken.json"}, "broken.json: not valid JSON"),
    ({"history": "deep.json"}, "deep.json: not valid JSON"),
    ({"history": "untitled.json"}, "untitled.json: click 1 has no text"),
    ({"history": "lost.json"}, "lost.json: click 1: .*gone.png: no such file"),
    ({"history": "mug.png"}, "mug.png: not valid JSON"),
    ({"out": "ad.gif"}, "cannot write .gif"),
    ({"out": "ad"}, "cannot write a file without ending"),
    ({"out": "no/ad.png"}, "the folder .*no does not exist"),
    ({"out": "folder.png"}, "folder.png"),
    ({"out": "mug.png"}, "mug.png"),
    ({"out": "history.png"}, "history.json"),
    ({"model": "no-model"}, "no-model"),
    ({"model": "notes.txt"}, "notes.txt"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_REQUESTS, ids=str)
def test_a_bad_request_is_told_in_one_line_and_writes_nothing(home: Path, changes: dict, expected: str) -> None:
    before = contents(home)
    result = call(*ask(**changes))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(rf"uniadgen: .*{expected}.*\n", result.stderr), result.stderr
    assert contents(home) == before


BAD_NUMBERS = [
    ({"seed": -1}, "seed"),
    ({"seed": 10**20}, "seed"),
    ({"seed": "seven"}, "seed"),
    ({"guidance": 0.5}, "guidance"),
    ({"guidance": "nan"}, "guidance"),
    ({"guidance": "inf"}, "guidance"),
    ({"num_images": 0}, "num-images"),
    ({"num_images": 65}, "num-images"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_NUMBERS, ids=str)
def test_an_impossible_number_is_named_and_writes_nothing(
    home: Path, tiny_run: Path, changes: dict, expected: str
) -> None:
    before = contents(home)
    result = call(*ask(tiny_run, **changes))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(home) == before


# Should a mistake slip through, the training that it starts is over in seconds.
SMALL = {**TINY, "vq_train.steps": 1, "words_train.steps": 1, "train.steps": 1, "world.num_shoppers": 1}
QUICKLY = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]

OTHER_MISTAKES = [
    (("train", "nanoo"), r"unknown recipe 'nanoo'; did you mean 'nano'\?"),
    (("train", "nano", "--set", "train.stps=5"), r"unknown setting 'train.stps'; did you mean 'steps'\?"),
    (("train", "nano", "--set", "train.steps"), "expected name=value"),
    (("train", "nano", "--set", "train.steps=many"), "train.steps is 'many', expected int"),
    (("train", "nano", "--set", "train.steps=0"), "train.steps is 0, expected more than 0"),
    (("train", "nano", "--set", "world.sample_noise=2"), "sample_noise"),
    (("train", "nano", "--set", "train.save_every=0"), "train.save_every"),
    (("train", "nano", "--set", "model.num_layers=1"), "model.num_layers"),
    (("train", "paper_7b"), "recipe paper_7b fine-tunes a base, expected --base, --dinov2 and --data"),
    (("train", "paper_7b", "--set", "world=1"), "world"),
    (("train", "nano", "--out", "notes.txt"), "notes.txt"),
    (("evaluate", "no-model"), "no-model"),
    (("evaluate", "no-model", "--out", "notes.txt"), "notes.txt: is a file, expected a folder"),
    (("evaluate", "no-model", "--out", "no/table"), "does not exist"),
    (("evaluate", "nano", "--baselines", "copi"), r"unknown baseline 'copi'; did you mean 'copy'\?"),
    (("evaluate", "nano", "--metrics", "stile"), r"unknown metric 'stile'; did you mean 'style'\?"),
    (("evaluate", "nano", "--reference", "mini"), "the reference is 'mini', expected one of nano, nano no_history"),
    (("evaluate", "nano", "--data", "gone"), "gone: expected the folder of a finished dataset"),
    (("evaluate", "nano", "--baselines", "llm"), "the baseline llm asks a server, got none: --set stages.llm_url"),
    (("reproduce", "table5"), r"unknown table 'table5'; did you mean 'table\d'\?"),
    (("reproduce", "table2", "--out", "notes.txt"), "notes.txt: is a file, expected a folder"),
    (("demo", "--out", "gone"), "gone: no such folder"),
    (("demo", "--model", "no-model"), "no-model"),
    (("world", "sheet", "sheet.gif"), "cannot write .gif"),
    (("world", "sheet", "no/sheet.png"), "does not exist"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), OTHER_MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, tuple) else ""
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(home: Path, arguments: tuple, expected: str) -> None:
    before = contents(home)
    result = call(*arguments[:2], *(QUICKLY if arguments[:2] == ("train", "nano") else ()), *arguments[2:])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(rf"uniadgen: .*{expected}.*\n", result.stderr), result.stderr
    assert contents(home) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate",),
        ("generate", "--product", "mug.png"),
        ("generate", "--sed", "5"),
        ("trian",),
        ("train",),
        ("evaluate", "nano", "--requests", "5"),
        ("world", "sheet", "sheet.png", "--rows", "0"),
        ("world", "sheet", "sheet.png", "--seed", "-1"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_not_one_says_how_to_go_on(home: Path, arguments: tuple) -> None:
    before = contents(home)
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()
    assert contents(home) == before


def test_a_run_of_another_config_is_not_overwritten(home: Path, tiny_run: Path) -> None:
    before = contents(tiny_run.parent)
    result = call("train", "nano", "--out", tiny_run.parent)
    assert result.exit_code == 2
    assert "holds a run of another config" in result.stderr
    assert contents(tiny_run.parent) == before


# an ad


def test_an_ad_and_its_record_are_written(home: Path, tiny_run: Path) -> None:
    result = call(*ask(tiny_run, seed=7))
    assert result.exit_code == 0, result.stderr
    record = json.loads(Path("ad.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["model"], len(record["shown"])) == (7, "nano", 3)
    assert result.stdout == f"{record['text']}\nad.png\n"
    with Image.open("ad.png") as picture:
        assert picture.size == (96, 96)


def test_several_ads_are_numbered_by_their_seeds(home: Path, tiny_run: Path) -> None:
    result = call(*ask(tiny_run, seed=4, num_images=2, out="ad.webp", history=None))
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in home.glob("ad*")) == ["ad-4.json", "ad-4.webp", "ad-5.json", "ad-5.webp"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_behind(home: Path, tiny_run: Path, monkeypatch) -> None:
    def full(self, path, *args, **kwargs) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    before = contents(home)
    result = call(*ask(tiny_run))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in result.stderr
    assert contents(home) == before


def test_words_that_are_no_unicode_are_told_in_one_line(home: Path) -> None:
    """As a shell passes bytes that it cannot read: é in Latin-1."""
    before = contents(home)
    result = call(*ask(description="caf\udce9"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert contents(home) == before


def test_other_errors_are_not_swallowed(home: Path, monkeypatch) -> None:
    """A fault of ours must stay loud."""

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(files, "check_output", broken)
    assert isinstance(call(*ask()).exception, RuntimeError)


# the sheet and the demo


def test_a_contact_sheet_is_drawn(home: Path, rendering: None) -> None:
    result = call("world", "sheet", "sheet.png", "--rows", 1, "--columns", 2, "--size", 16)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "sheet.png\n"
    with Image.open("sheet.png") as picture:
        assert picture.width > picture.height


def test_the_demo_is_a_picture_and_a_page_that_needs_nothing_else(home: Path, tiny_run: Path) -> None:
    result = call("demo", "--model", tiny_run)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["demo.png", "demo.html"]
    page = Path("demo.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 4
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/webp;base64,") > 20


# help


def help_of(command: str) -> Result:
    return call(*command.split(), "--help")


def test_the_first_help_names_every_command_and_where_to_start() -> None:
    text = help_of("").stdout
    assert all(command.split()[0] in text for command in COMMANDS)
    assert "uniadgen demo" in text


def test_a_bare_call_shows_the_help() -> None:
    result = call()
    assert "Usage" in result.stdout + result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_says_what_the_command_does(command: str) -> None:
    result = help_of(command)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("command", ["generate", "train"])
def test_help_teaches_by_an_example(command: str) -> None:
    text = help_of(command).stdout
    assert f"Example: uniadgen {command}" in " ".join(text.split())


def test_every_option_is_explained() -> None:
    silent = []

    def look(command, name: str) -> None:
        for sub, inner in getattr(command, "commands", {}).items():
            look(inner, f"{name} {sub}")
        silent.extend(f"{name} {p.name}" for p in command.params if p.name != "help" and not getattr(p, "help", None))

    look(typer.main.get_command(app), "uniadgen")
    assert silent == []


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys, uniadgen.__main__; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "uniadgen", "--help"], check=False, capture_output=True, text=True)
    assert result.returncode == 0
    assert "generate" in result.stdout
    assert callable(__main__.main)
