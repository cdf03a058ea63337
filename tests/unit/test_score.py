"""`uniadgen score`: a row for each picture; what is missing, damaged or of no pair is said before anything runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from typer.testing import CliRunner, Result

from metric_models import IMAGEREWARD, write_all
from uniadgen.__main__ import app
from uniadgen.data.cutout import read_picture
from uniadgen.metrics import imagereward, weights
from uniadgen.metrics.pictures import PictureFeatures, PictureScore, similarity
from uniadgen.metrics.weights import SOURCES, load_metrics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = write_all(tmp_path_factory.mktemp("models"))
    return {name: folder / name for name in SOURCES}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three ads, what was clicked beside them, prompts; commands run there."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, ending in (("ads", "png"), ("clicked", "jpg")):
        Path(folder).mkdir()
        for number in range(3):
            noise = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            noise.resize((40, 40), Image.Resampling.NEAREST).save(f"{folder}/{number}.{ending}")
    Path("ads/0.json").write_text("{}")  # what `generate` writes beside
    write_prompts([("2.png", "a lamp"), ("0.png", "a red mug"), ("1.png", "m" * 90)])
    return tmp_path


def write_prompts(entries: list[tuple[str, str]], name: str = "prompts.jsonl") -> None:
    lines = [json.dumps({"picture": picture, "prompt": prompt}) for picture, prompt in entries]
    Path(name).write_text("\n".join(lines) + "\n\n")


def score(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["score", "ads", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})


def read_rows(name: str = "scores.csv") -> list[list[str]]:
    with Path(name).open(newline="") as file:
        return list(csv.reader(file))


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_a_row_for_each_picture_and_a_column_for_each_metric(home: Path, models: dict[str, Path]) -> None:
    options = [f"--weights={name}={models[name]}" for name in ("clip", "pickscore", "ase")]
    result = score(
        "--metric", "pickscore", "--metric", "clip", "--metric", "ase", *options,
        "--prompts", "prompts.jsonl", "--beside", "clicked", "--batch-size", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    header, *rows = read_rows()
    assert header == ["picture", "pickscore", "clip", "ase"]
    assert [row[0] for row in rows] == ["0.png", "1.png", "2.png"]
    loaded, missing = load_metrics(["clip", "pickscore"], models, CPU)
    assert missing == {}
    ads, clicked = (
        [read_picture(Path(f"{folder}/{number}.{ending}"), "RGB") for number in range(3)]
        for folder, ending in (("ads", "png"), ("clicked", "jpg"))
    )
    wanted = loaded["pickscore"](ads, ["a red mug", "m" * 90, "a lamp"]), similarity(loaded["clip"], ads, clicked)
    for column, values in enumerate(wanted, start=1):
        assert np.allclose([float(row[column]) for row in rows], values, atol=1e-4)
    assert f"pickscore │ {wanted[0].mean():.4f} │ 3 │ 1 │" in said(result)


def test_what_has_no_weights_is_said_and_the_others_run(home: Path, models: dict[str, Path]) -> None:
    result = score(
        "--metric", "mocov3", "--metric", "dinov3", "--beside", "clicked", "--weights", f"dinov3={models['dinov3']}"
    )  # fmt: skip
    assert result.exit_code == 1
    assert (
        "uniadgen: mocov3: no weights given, expected a folder with vit-b-300ep.pth.tar or vit-s-300ep.pth.tar: "
        "MoCo v3, ViT-B or ViT-S, of github.com/facebookresearch/moco-v3 (CC BY-NC 4.0); give it as mocov3=FOLDER"
    ) in said(result)
    assert read_rows()[0] == ["picture", "dinov3"]
    Path("scores.csv").unlink()
    result = score("--metric", "ase", "--weights", "ase=nowhere")
    assert result.exit_code == 1 and "ase: nowhere is no folder, expected a folder with config.json" in said(result)
    assert not Path("scores.csv").exists()


WRONG = [
    (("--metric", "clipp"), "got the metric 'clipp'; did you mean 'clip'?"),
    (("--metric", "ase", "--weights", "clip-l14"), "got --weights clip-l14, expected METRIC=FOLDER"),
    (("--metric", "ase", "--weights", "clipp=x"), "got the metric 'clipp'"),
    (("--metric", "ase", "--out", "scores.txt"), "cannot write .txt"),
    (("--metric", "clip", "--metric", "ase"), "clip: got no --beside, expected the folder of pictures"),
    (("--metric", "pickscore"), "pickscore: got no --prompts, expected what each picture should show"),
    (("--metric", "clip", "--beside", "gone"), "gone: no such folder"),
    (("--metric", "clip", "--beside", "empty"), "empty: no pictures, expected files that end in .png"),
    (("--metric", "clip", "--beside", "fewer"), "fewer: 0 pictures are named 2, expected one beside ads/2.png"),
    (("--metric", "clip", "--beside", "twice"), "twice: 2 pictures are named 0"),
    (("--metric", "clip", "--beside", "cut"), "1 pictures cannot be read: cut/1.jpg: the picture is damaged"),
    (("--metric", "pickscore", "--prompts", "gone.jsonl"), "gone.jsonl: no such file"),
    (("--metric", "pickscore", "--prompts", "few.jsonl"), "few.jsonl: no prompt for 1.png"),
    (("--metric", "pickscore", "--prompts", "many.jsonl"), "many.jsonl: a prompt for 3.png, which is not there"),
    (("--metric", "pickscore", "--prompts", "empty.jsonl"), "empty.jsonl: line 2 has no text"),
    (("--metric", "pickscore", "--prompts", "ads/0.json"), "ads/0.json: line 1 is not"),
    (("--metric", "pickscore", "--prompts", "ads/0.png"), "ads/0.png: line 1 is not"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_is_one_line(home: Path, arguments: tuple[str, ...], message: str) -> None:
    for name in ("empty", "fewer", "twice", "cut"):
        Path(name).mkdir()
    for name in ("fewer/0.jpg", "fewer/1.jpg", "twice/0.jpg", "twice/0.png", "cut/0.jpg", "cut/1.jpg", "cut/2.jpg"):
        Path(name).write_bytes(Path("clicked/0.jpg").read_bytes())
    Path("cut/1.jpg").write_bytes(Path("clicked/0.jpg").read_bytes()[:300])
    write_prompts([("0.png", "a mug"), ("2.png", "a mug")], "few.jsonl")
    write_prompts([(f"{number}.png", "a mug") for number in range(4)], "many.jsonl")
    write_prompts([("0.png", "a mug"), ("1.png", " ")], "empty.jsonl")
    result = score(*arguments)
    assert result.exit_code == 2
    assert message in said(result) and len(result.output.splitlines()) == 1
    assert not Path("scores.csv").exists()


def test_every_metric_is_loaded_by_its_name(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagereward, "published", lambda: IMAGEREWARD)
    loaded, missing = load_metrics(SOURCES, models, CPU)
    assert (list(loaded), missing) == (list(SOURCES), {})
    for name, metric in loaded.items():
        assert metric.name == name
        assert isinstance(metric, PictureFeatures if SOURCES[name].needs == "counterparts" else PictureScore)
        assert not isinstance(metric, PictureScore) or metric.needs_prompts == (SOURCES[name].needs == "prompts")


def test_each_file_that_is_missing_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in models.items():
        for group in SOURCES[name].files:
            bare = tmp_path / f"{name} without {group[0]}"
            bare.mkdir()
            for path in folder.iterdir():
                if path.name not in group:
                    (bare / path.name).symlink_to(path)
            loaded, missing = load_metrics([name], {name: bare}, CPU)
            assert loaded == {}
            assert missing[name].startswith(f"{name}: {bare} has no {group[0]}")


def test_a_model_of_the_hub_that_cannot_be_reached_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded, missing = load_metrics(["clip"], {"clip": "nobody/has-this"}, CPU)
    assert loaded == {}
    assert "got the model 'nobody/has-this', expected a folder, or an id of the Hugging Face Hub" in missing["clip"]


def test_weights_that_are_wrong_are_not_missing(models: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="these are no DINOv3 ViT's weights"):
        weights.load_metrics(["dinov3"], {"dinov3": models["clip"]}, CPU)
