"""Every knob: changed by name, read by type, validated with the numbers in the message, saved and loaded as it is."""

import dataclasses
import json

import pytest

from uniadgen.config import (
    Config,
    DataConfig,
    GenerateConfig,
    ModelConfig,
    PBSConfig,
    nearest,
    override,
    parse_overrides,
    replace_in,
)
from uniadgen.model.weights import SHIPPED
from uniadgen.recipes import RECIPES, nano, paper_1b, paper_7b, pbs, recipe


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.steps", "50", 50),
        ("train.learning_rate", "3e-4", 3e-4),
        ("train.bfloat16", "false", False),
        ("train.bfloat16", "True", True),
        ("train.betas", "0.8,0.9", (0.8, 0.9)),
        ("model.vq_multiplier", "(1,2,4)", (1, 2, 4)),
        ("world.languages", "zh,en", ("zh", "en")),
        ("data.sampler", "at_random", "at_random"),
        ("generate.guidance", "3", 3.0),
        ("name", "mine", "mine"),
    ],
)
def test_a_text_is_read_as_the_fields_type(name: str, text: str, value) -> None:
    config = override(nano(), {name: text})
    for part in name.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


def test_only_the_named_field_changes() -> None:
    changed = override(nano(), {"train.steps": "50"})
    assert changed != nano()
    assert dataclasses.replace(changed, train=dataclasses.replace(changed.train, steps=nano().train.steps)) == nano()


def test_several_fields_change_together() -> None:
    config = override(nano(), {"train.steps": "5", "data.num_clicks": "2", "train.seed": "1"})
    assert (config.train.steps, config.data.num_clicks, config.train.seed) == (5, 2, 1)


def test_fields_that_only_fit_together_change_together() -> None:
    changes = {"data.image_size": "100", "data.click_size": "40", "model.vq_patch": "20"}
    assert override(nano(), changes).cells == 25


def test_recipes_change_fields_by_keyword() -> None:
    assert replace_in(nano(), data__num_clicks=0, name="no_history").data.num_clicks == 0


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("train.stps", "steps"),
        ("trian.steps", "train"),
        ("data.num_click", "num_clicks"),
        ("generate.guidence", "guidance"),
    ],
)
def test_an_unknown_name_offers_the_nearest(name: str, offered: str) -> None:
    with pytest.raises(ValueError, match=f"unknown setting '{name}'; did you mean '{offered}'\\?"):
        override(nano(), {name: "1"})


def test_a_name_like_no_other_lists_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'xyz' \(known: base, data, distilled, generate, model"):
        override(nano(), {"xyz": "1"})


@pytest.mark.parametrize("name", ["train", "train.steps.more", "name.more"])
def test_a_group_and_a_leaf_are_told_apart(name: str) -> None:
    with pytest.raises(ValueError, match=r"is a group|has no fields"):
        override(nano(), {name: "1"})


@pytest.mark.parametrize("name", ["world.seed", "vq_train.steps"])
def test_a_part_that_a_recipe_has_not_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match="has no fields here"):
        override(paper_7b(), {name: "1"})


@pytest.mark.parametrize("name", ["world", "vq_train"])
def test_a_part_that_a_recipe_has_not_cannot_be_set_as_a_whole(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        override(paper_7b(), {name: "5"})


def test_words_can_be_given_where_there_were_none() -> None:
    config = override(paper_7b(), {"generate.connecting_words": "and,now"})
    assert config.generate.connecting_words == ("and", "now")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train.steps", "many", "train.steps is 'many', expected int such as 2100"),
        ("train.steps", "1.5", "expected int"),
        ("train.bfloat16", "perhaps", "expected bool such as True"),
        ("model.vq_multiplier", "1,x", "expected tuple such as"),
        ("train.learning_rate", "", "expected float"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_would(name: str, text: str, expected: str) -> None:
    config = override(nano(), {"train.steps": 2100})
    with pytest.raises(ValueError, match=expected):
        override(config, {name: text})


def test_settings_are_split_at_the_first_equals_sign() -> None:
    assert parse_overrides(["name=a=b", "train.steps=50"]) == {"name": "a=b", "train.steps": "50"}


def test_a_setting_without_a_value_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"got --set train.steps, expected name=value such as train.steps=50"):
        parse_overrides(["train.steps"])


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        (DataConfig, "modality", "video", "data.modality is 'video', expected one of image\\+text, image, text"),
        (DataConfig, "sampler", "best", "expected one of by_similarity, at_random, most_similar"),
        (DataConfig, "num_clicks", -1, "data.num_clicks is -1, expected 0 or more"),
        (DataConfig, "history_dropout", 1.5, "a share in \\[0, 1\\]"),
        (ModelConfig, "keep_rate", 0.0, "model.keep_rate is 0.0, expected a share in \\(0, 1\\]"),
        (ModelConfig, "condition_dropout", -0.1, "a share in \\[0, 1\\]"),
        (ModelConfig, "hidden_size", 100, "model.hidden_size is 100, expected a multiple of 32 heads"),
        (GenerateConfig, "guidance", 0.5, "generate.guidance is 0.5, expected 1 \\(off\\) or more"),
        (GenerateConfig, "guidance", float("nan"), "generate.guidance is nan"),
        (GenerateConfig, "temperature", -1.0, "0 \\(greedy\\) or more"),
        (GenerateConfig, "leave_out", "text", "history, product or both"),
    ],
)
def test_an_impossible_value_is_refused_with_both_numbers(kind: type, field: str, value, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind(**{field: value})


def test_pictures_must_be_made_of_whole_cells() -> None:
    with pytest.raises(
        ValueError, match=r"data.image_size is 100, expected a multiple of 12 \(pixels per image cell\)"
    ):
        override(nano(), {"data.image_size": "100"})


@pytest.mark.parametrize(
    "setting",
    [
        "train.save_every=0",
        "train.sample_every=0",
        "train.learning_rate=nan",
        "train.threads=-1",
        "data.image_size=0",
        "data.click_size=0",
        "data.click_words=0",
        "generate.max_words=0",
        "generate.text_top_k=-1",
        "generate.guidance=inf",
        "model.num_heads=0",
        "model.vq_patch=6",
        "model.num_layers=1",
        "model.control_every=0",
        "world.num_variants=0",
        "world.sample_noise=2",
        "world.languages=fr",
    ],
)
def test_a_value_that_can_only_fail_later_is_refused_at_once(setting: str) -> None:
    name = setting.split("=")[0]
    with pytest.raises(ValueError, match=name):
        override(nano(), parse_overrides([setting]))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_saved_and_loaded_as_it_is(name: str, tmp_path) -> None:
    config = recipe(name)
    config.save(tmp_path / "recipe.json")
    assert Config.load(tmp_path / "recipe.json") == config
    assert config.name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [({"surprise": 1}, r"\['surprise'\] are unknown"), ({"name": None}, r"\['name'\] are missing")],
)
def test_a_file_of_another_version_is_refused(change: dict, message: str, tmp_path) -> None:
    path = tmp_path / "recipe.json"
    nano().save(path)
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    with pytest.raises(ValueError, match=f"recipe.json: the fields {message}"):
        Config.load(path)


def test_a_file_from_before_a_knob_has_its_default(tmp_path) -> None:
    path = tmp_path / "recipe.json"
    nano().save(path)
    values = json.loads(path.read_text())
    del values["model"]["compact"], values["words_train"]["clip"]
    path.write_text(json.dumps(values))
    assert Config.load(path) == nano()


def test_a_file_whose_part_is_of_another_version_says_which(tmp_path) -> None:
    path = tmp_path / "recipe.json"
    nano().save(path)
    values = json.loads(path.read_text())
    values["train"]["epochs"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="train: the fields \\['epochs'\\]"):
        Config.load(path)


@pytest.mark.parametrize("content", ["[1]", "3", '{"data": {}}'])
def test_a_file_that_is_no_recipe_is_refused(content: str, tmp_path) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        Config.load(tmp_path / "recipe.json")


def test_an_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown recipe 'nanoo'; did you mean 'nano'\? \(known: nano, .*paper_7b\)",
    ):
        recipe("nanoo")


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("qqq", ["train", "data"]) == " (known: data, train)"


def test_paper_7b_is_the_paper() -> None:
    """Section 5.1 and Table 3: 384 px, 24 x 24 cells, 10 clicks of 128 px with 64 tokens, 40 % kept."""
    config = paper_7b()
    assert (config.cells, config.click_cells, config.data.num_clicks, config.model.keep_rate) == (576, 64, 10, 0.4)
    assert (config.train.batch_size, config.train.learning_rate) == (4, 5e-5)


def test_paper_1b_differs_from_7b_in_its_size_alone() -> None:
    large, small = paper_7b(), paper_1b()
    assert dataclasses.replace(small, name=large.name, model=large.model) == large
    assert small.model.hidden_size < large.model.hidden_size


def test_configs_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        nano().train.steps = 5


def test_the_shipped_weights_are_of_the_recipe_that_train_runs() -> None:
    assert Config.load(SHIPPED / "nano" / "recipe.json") == nano()
    assert PBSConfig.load(SHIPPED / "pbs" / "recipe.json") == pbs()
