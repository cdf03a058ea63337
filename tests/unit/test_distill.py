"""Guidance distilled: what is learnt is what the engine samples from, and a student comes nearer to it."""

import copy
import json
from pathlib import Path

import pytest
import torch

from conftest import TINY
from uniadgen.config import Config, override
from uniadgen.data.batch import Kind, collate
from uniadgen.engine.reference import Reference
from uniadgen.model import weights
from uniadgen.pipeline import AdGenerator
from uniadgen.recipes import nano, recipe
from uniadgen.train.distill import Branches, Distilled
from uniadgen.train.nano import Given, train_recipe


@pytest.fixture
def rows(make_row, layout) -> Branches:
    """Three rows in both branches, one of a shopper without a history."""
    informed, blind = (
        collate([make_row(0, num_clicks=number * seen) for number in (2, 1, 0)], layout.pad_id) for seen in (1, 0)
    )
    return Branches(informed, blind)


def test_without_guidance_a_model_is_what_its_student_should_be(model, rows: Branches) -> None:
    assert Distilled(copy.deepcopy(model), model, 1.0).loss(rows).total.abs() < 1e-5
    assert Distilled(copy.deepcopy(model), model, 3.0).loss(rows).total > 1e-2


def test_what_is_learnt_is_what_the_engine_samples_from(model, layout, tiny_config: Config, make_row, rows) -> None:
    """The first word and the first cell of a row, from the plain reference's two branches."""
    words, cells = Distilled(copy.deepcopy(model), model, 3.0).guided(rows)
    of_row = rows.informed.text_loss.nonzero()[:, 0] == 0
    prompts = [make_row(0, num_clicks=number, target=False) for number in (2, 0)]
    plain = Reference(model, layout, tiny_config.generate, prompts, 0)
    written, codes = (make_row(0).ids[make_row(0).kind == kind] for kind in (Kind.TEXT, Kind.IMAGE))
    plain.answer.append((layout.start_text, Kind.PROMPT))
    spoken = (words[of_row], plain.score_words), (cells, lambda branch: plain.score_cells(branch, codes.tolist()))
    for scores, say in spoken:
        with torch.no_grad():
            seen, blind = (say(branch)[0] for branch in (0, 1))
        torch.testing.assert_close(scores[0], blind + 3.0 * (seen - blind), atol=1e-4, rtol=1e-4)
        plain.answer += [*((int(word), Kind.TEXT) for word in written), (layout.start_image, Kind.PROMPT)]


def test_the_loss_is_the_divergence_of_what_is_said_from_what_is_wanted(model, rows: Branches) -> None:
    pair = Distilled(copy.deepcopy(model), model, 3.0)
    wanted, own = pair.guided(rows)[0].softmax(-1), pair.student.scores(rows.informed).words.softmax(-1)
    apart = (wanted * (wanted / own).log()).sum(-1)
    torch.testing.assert_close(pair.loss(rows).text, apart.mean(), atol=1e-5, rtol=1e-4)


def test_a_student_comes_nearer_and_its_base_stays_as_it_is(model, rows: Branches) -> None:
    pair = Distilled(copy.deepcopy(model), model, 3.0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in pair.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(30):
        losses.append(pair.loss(rows).total)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["nano_distilled", "nano_parallel"])
def test_a_recipe_is_distilled_and_makes_ads_with_one_branch(
    tiny_run: Path, stock: Path, tmp_path: Path, product, name: str
) -> None:
    small = {name: value for name, value in TINY.items() if not name.startswith("generate.guidance")}
    config = override(recipe(name), small | {"train.steps": 2})
    made = train_recipe(config, tmp_path / "run", Given(stock, base=tiny_run))
    assert not (tmp_path / "run" / "words").exists()  # the base's word preference is learnt already
    losses = [json.loads(line) for line in (tmp_path / "run" / "model" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and losses[0]["total"] > 0
    generator = AdGenerator.from_pretrained(made)
    assert generator.config.generate.guidance == 1 and generator.config.distilled == nano().generate.guidance
    assert generator.generate(product, seed=0).text
    base, student = (weights.load(folder)[0].state_dict() for folder in (tiny_run, made))
    assert any(not torch.equal(tensor, student[name]) for name, tensor in base.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distilled": -1.0}, r"distilled is -1.0, expected 0 \(none\)"),
        ({"generate.guidance": 2.0}, "generate.guidance is 2.0, expected 1 where it is distilled"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(recipe("nano_distilled"), changes)


def test_nothing_is_distilled_without_a_base(tiny_run: Path, tmp_path: Path) -> None:
    config = override(recipe("nano_distilled"), TINY)
    with pytest.raises(
        ValueError, match=r"'nano_distilled' learns a base's guided scores, expected --base, such as nano"
    ):
        train_recipe(config, tmp_path, Given(tiny_run.parent))
