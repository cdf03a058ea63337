"""The paper's tables again: a recipe for each row, what rows share made once, both numbers side by side."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from conftest import TINY
from uniadgen.__main__ import app
from uniadgen.config import Config, override, replace_in
from uniadgen.data.batch import collate
from uniadgen.evaluate import reproduce as module
from uniadgen.evaluate.harness import Measured
from uniadgen.evaluate.measures import MEASURES
from uniadgen.evaluate.paper import TABLES
from uniadgen.evaluate.report import Report
from uniadgen.evaluate.reproduce import Reproduction, reproduce, side_by_side, trained
from uniadgen.evaluate.summary import Difference, Line
from uniadgen.model import weights
from uniadgen.recipes import RECIPES, nano, recipe
from uniadgen.train.nano import Given, train_recipe

# What all rows have: those whose history is not extracted learn no word preference.
SMALL = {name: value for name, value in TINY.items() if not name.startswith(("words_train", "model.word_preference"))}

# rows and recipes


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_row_of_the_paper_has_its_numbers_and_ours_a_recipe(table) -> None:
    assert all(len(row.numbers) == len(table.columns) for row in table.rows)
    assert {row.recipe for row in table.rows} - {""} <= set(RECIPES)
    assert table.reference in [row.name for row in table.rows if row.recipe]
    assert set(table.beside) <= set(MEASURES)


def test_rows_that_tables_share_have_the_same_numbers() -> None:
    """Length 0 is the Baseline, length 10 and product similarity sampling are Ours (Tables 2, 3, 4)."""
    numbers = {(name, row.name): row.numbers for name, table in TABLES.items() for row in table.rows}
    assert numbers["table2", "Baseline"] == numbers["table3", "0"] == (0.617, 0.225, 0.525)
    ours = numbers["table2", "Ours"]
    assert ours == numbers["table3", "10"] == numbers["table4", "Product Similarity Sampling"] == (0.634, 0.435, 0.662)


def test_the_ablation_changes_one_part_at_a_time() -> None:
    baseline, history, pss = (recipe(f"nano_{name}") for name in ("baseline", "history", "pss"))
    ours = nano()
    assert replace_in(baseline, name="nano_pss", data__num_clicks=ours.data.num_clicks) == pss
    assert replace_in(history, name="nano_pss", data__sampler="by_similarity") == pss
    restored = {name: getattr(ours.model, name) for name in ("extractor_layers", "fusion_layers", "preference_control")}
    restored = {f"model__{name}": value for name, value in restored.items()}
    words = replace(pss, words_train=ours.words_train)
    assert replace_in(words, name="nano", model__word_preference=ours.model.word_preference, **restored) == ours
    assert recipe("nano_12_clicks") == replace_in(ours, name="nano_12_clicks", data__num_clicks=12)
    assert recipe("nano_image").data.modality == "image" and recipe("nano_text").data.num_clicks == 0


# a model without preference extraction


@pytest.fixture
def unselected(tiny_config: Config) -> Config:
    return override(
        tiny_config, {"model.extractor_layers": 0, "model.fusion_layers": 0, "model.preference_control": False}
    )


def test_without_extraction_the_history_goes_in_as_it_is(unselected: Config, tokenizer, make_row) -> None:
    model, layout = weights.build(unselected, tokenizer)
    batch = collate([make_row(0, num_clicks=3), make_row(1, num_clicks=1)], layout.pad_id)
    fused = model.prefer(batch)
    torch.testing.assert_close(fused.text, model.get_input_embeddings()(batch.click_ids), rtol=0, atol=0)
    codes = model.prepare_embeddings_for_image_generation(batch.click_codes)
    torch.testing.assert_close(fused.image, codes, rtol=0, atol=0)
    assert fused.text_selection.mask.bool().tolist() == batch.click_words.flatten(1).tolist()
    assert not any(name.startswith("preference") for name, _ in model.named_parameters())
    model.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert model.get_input_embeddings().weight.grad is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.extractor_layers": 0}, "model.fusion_layers is 1, expected 0, as model.extractor_layers"),
        ({"model.fusion_layers": 0}, "model.fusion_layers is 0, expected more than 0"),
    ],
)
def test_extraction_is_there_as_a_whole_or_not_at_all(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(nano(), changes)


# what rows share


def test_pictures_tokenizer_and_vq_are_taken_from_another_run(
    tiny_run: Path, tmp_path: Path, tiny_config: Config
) -> None:
    """Of the first run all stays as it was, and the new one holds its model alone."""
    shared = tiny_run.parent
    files = sorted(path for name in ("stock", "tokenizer", "vq") for path in (shared / name).rglob("*"))
    before = {path: path.read_bytes() for path in files if path.is_file()}
    config = override(tiny_config, {"data.num_clicks": 2, "train.steps": 1, "words_train.steps": 1})
    made = train_recipe(config, tmp_path / "run", Given(shared))
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "run" / "stock").exists() and not (tmp_path / "run" / "vq").exists()
    one, _, _ = weights.load(tiny_run)
    other, _, found = weights.load(made)
    assert found.data.num_clicks == 2
    for name, tensor in one.model.vqmodel.state_dict().items():
        assert torch.equal(tensor, other.model.vqmodel.state_dict()[name]), name
    different = override(config, {"vq_train.steps": 5})
    with pytest.raises(ValueError, match=r"holds pictures, tokenizer and VQ of another config \(nano\), expected"):
        train_recipe(different, tmp_path / "other", Given(shared))


def test_tokenizer_and_vq_are_taken_from_weights(
    tiny_run: Path, stock: Path, tmp_path: Path, tiny_config: Config
) -> None:
    """Neither is trained; codes of another VQ that lie in the same stock are not taken for these."""
    config = override(tiny_config, {"train.steps": 1, "words_train.steps": 1})
    made = train_recipe(config, tmp_path / "run", Given(stock, tiny_run))
    assert not (stock / "vq").exists() and not (stock / "tokenizer").exists()
    one, other = (weights.load(folder)[0].model.vqmodel.state_dict() for folder in (tiny_run, made))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (made / "tokenizer.json").read_bytes() == (tiny_run / "tokenizer.json").read_bytes()
    assert len(list((stock / "stock").glob("codes-*.npz"))) == 2  # fp16 weights are another VQ
    with pytest.raises(ValueError, match=r"model.num_codes is \d+, expected 32 as in nano"):
        train_recipe(override(config, {"model.num_codes": 32}), tmp_path / "other", Given(parts=tiny_run))


def test_rows_begin_from_the_same_weights(tiny_run: Path, stock: Path, tmp_path: Path, tiny_config: Config) -> None:
    """A base without history is continued by a model with one: all that both have is the base's, at first."""
    plain = override(recipe("nano_baseline"), SMALL | {"train.steps": 1})
    base = train_recipe(plain, tmp_path / "base", Given(stock, parts=tiny_run))
    still_plain = {"train.steps": 1, "train.learning_rate": 1e-30}
    still = still_plain | {"words_train.steps": 1, "words_train.learning_rate": 1e-30}
    made = train_recipe(override(tiny_config, still), tmp_path / "run", Given(stock, base=base))
    begun, continued = (weights.load(folder)[0].state_dict() for folder in (base, made))
    assert all(torch.equal(continued[name], tensor) for name, tensor in begun.items())
    own = continued.keys() - begun.keys()
    assert own == {name for name in continued if name.startswith(weights.OF_HISTORY)} != set()
    assert Config.load(made / "recipe.json").base == weights.fingerprint(base)
    with pytest.raises(ValueError, match="holds a run of another config"):  # the same recipe from random weights
        train_recipe(override(tiny_config, still), tmp_path / "run", Given(stock))
    back = train_recipe(override(plain, still_plain), tmp_path / "back", Given(stock, base=made))
    less = weights.load(back)[0].state_dict()
    assert all(torch.equal(less[name], tensor) for name, tensor in begun.items()) and less.keys() == begun.keys()
    wider = override(plain, {"model.intermediate_size": 160})
    with pytest.raises(ValueError, match=r"has shape .* weights are of another model"):
        train_recipe(wider, tmp_path / "wider", Given(stock, base=base))
    with pytest.raises(ValueError, match="got a base and parts, expected one"):
        train_recipe(plain, tmp_path / "both", Given(stock, tiny_run, base))


def test_a_row_that_is_trained_is_not_trained_again(tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    settings = {name: str(value) for name, value in SMALL.items()}
    how = Reproduction(stock=tiny_run.parent, steps=1, settings=settings)
    asked = []

    def train(config: Config, folder: Path, given: Given) -> Path:
        asked.append((config.name, config.train.steps, folder, given.stock))
        (folder / "weights").mkdir(parents=True)
        config.save(folder / "weights" / "recipe.json")
        return folder / "weights"

    monkeypatch.setattr(module, "train_recipe", train)
    first = trained("nano_pss", tmp_path, how)
    assert trained("nano_pss", tmp_path, how) == first
    assert asked == [("nano_pss", 1, tmp_path / "runs" / "nano_pss", tiny_run.parent)]
    (tmp_path / "nano" / "weights").mkdir(parents=True)  # a run of nano itself: its model is the full one
    full = override(nano(), settings | {"train.steps": 1, "words_train.steps": 1})
    full.save(tmp_path / "nano" / "weights" / "recipe.json")
    own = replace(how, stock=tmp_path / "nano")
    assert trained("nano", tmp_path, own) == tmp_path / "nano" / "weights"
    assert len(asked) == 1


# a table, end to end


def test_a_table_is_trained_measured_and_set_beside_the_papers(tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    from uniadgen.evaluate import truth

    monkeypatch.setattr(truth, "JUDGE_JITTERS", 1)
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    arguments = ["reproduce", "table1", "--out", str(tmp_path / "again"), "--stock", str(tiny_run.parent)]
    result = CliRunner().invoke(app, [*arguments, "--steps", "1", "--requests", "10", "--at-once", "2", *settings])
    assert result.exit_code == 0, result.stderr
    assert "model 1/1" in (tmp_path / "again" / "runs" / "nano_text" / "log.txt").read_text(encoding="utf-8")
    page = (tmp_path / "again" / "table1.md").read_text(encoding="utf-8")
    assert "trained for 1 steps, not the 3,700 of nano: too few to judge the rows by; 10 requests" in page
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in page.splitlines()[2:]
    }
    header = rows["row"]
    assert rows["DeepSeek-R1"][header.index("m-BLEU, paper")] == "0.533"
    assert rows["DeepSeek-R1"][header.index("m-BLEU, here")] == "–"
    assert rows["Ours"][header.index("m-ROUGE, paper")] == "0.654"
    assert ".." in rows["Ours"][header.index("m-ROUGE, here")]
    assert rows["Ours-image"][header.index("m-BLEU, here")] == "–"
    assert ".." in rows["Ours-text"][header.index("texts of selling points only")]
    with Image.open(tmp_path / "again" / "table1.png") as drawn:
        assert drawn.width > 300
    assert (tmp_path / "again" / "runs" / "nano_text" / "weights" / "recipe.json").is_file()


def test_what_differs_is_marked() -> None:
    def line(name: str, difference: Difference | None = None) -> Line:
        counts = {"n": 10, "shoppers": 10, "interval": "bootstrap", "difference": difference}
        return Line(key="bleu", measure="BLEU", generator=name, value=0.5, low=0.4, high=0.6, **counts)

    sure = Difference(-0.1, -0.2, -0.05, "paired bootstrap", 0.01, 0.03, 10)
    unsure = Difference(-0.1, -0.2, 0.05, "paired bootstrap", 0.01, 0.06, 10)
    lines = (line("nano"), line("nano_pss", sure), line("nano_baseline", unsure))
    settings = {"requests": {"number": 10}, "seeds": 1, "reference": "nano"}
    beside = side_by_side(TABLES["table2"], Report(lines, Measured(), settings), [nano()])
    assert "3,700 steps; 10 requests, 1 seed each" in beside.title
    cells = {row[0]: row for row in beside.rows}
    assert beside.header == ("row", "PBS, paper", "BLEU, paper", "BLEU, here", "ROUGE, paper")
    assert cells["w/ PSS"][2:4] == ("0.430", "0.500* (0.400 .. 0.600)")
    assert cells["Baseline"][3] == "0.500 (0.400 .. 0.600)"
    assert cells["Pigeon"] == ("Pigeon", "0.624", "–", "–", "–")


@pytest.mark.parametrize("name", ["table5", "tabel2"])
def test_a_table_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"unknown table '{name}'.*known: fig2d, table1, table2, table3, table4"):
        reproduce([name], tmp_path, Reproduction())
