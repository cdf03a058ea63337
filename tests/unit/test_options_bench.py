"""The bench of options: all make ads for the same shoppers, are timed in turns, and judged as evaluate judges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from uniadgen import AdGenerator, Click, Product
from uniadgen.__main__ import app
from uniadgen.config import override
from uniadgen.data.cutout import place
from uniadgen.evaluate.requests import Request
from uniadgen.evaluate.scorers import SCORERS, Setting
from uniadgen.options import (
    COMPACT,
    DEFAULT,
    DISTILLED,
    HEADER,
    OPTIONS,
    STAGGERED,
    Bench,
    option_of,
    rows,
    steps_of,
    table,
)
from uniadgen.records import Ad, Example


@pytest.fixture
def compact(generator: AdGenerator) -> AdGenerator:
    """As if it had been trained with `model.compact`."""
    return AdGenerator(generator.model, generator.layout, override(generator.config, {"model.compact": True}))


def test_every_option_is_timed_and_judged(
    generator: AdGenerator, compact: AdGenerator, tiny_run: Path, rendering: None, tmp_path: Path, monkeypatch
) -> None:
    named = {"tiny": generator, str(tiny_run): compact}
    monkeypatch.setattr(AdGenerator, "from_pretrained", named.__getitem__)
    monkeypatch.setattr("uniadgen.evaluate.contenders.find", lambda name: tiny_run)
    monkeypatch.setattr("uniadgen.options.SCORERS", ("words", "text"))  # the judge of styles renders many pictures
    report = Bench(tmp_path, "tiny", [str(tiny_run)], 2).measure(1)
    report.save(tmp_path)
    assert [option.name for option in report.options] == [DEFAULT, *OPTIONS, COMPACT]
    assert report.options[0].faster == 1 and not report.options[0].changes
    for option in report.options:
        assert len(option.turns) == 1 and option.seconds == option.turns[0] > 0 and option.steps > 1
        assert {"manner", "bleu", "rouge_l"} <= {line.key for line in option.lines}
        assert {line.generator for line in option.lines} == {option.name}
    told = json.loads((tmp_path / "options.json").read_text())
    assert [option["name"] for option in told["options"]] == [option.name for option in report.options]
    assert (tmp_path / "options.md").read_text().count("\n") == len(report.options) + 2
    assert {len(row) for row in rows(report)} == {len(HEADER)}
    assert table(report).row_count == len(report.options)
    assert len(list((tmp_path / "ads").glob("*.json"))) >= 2 * len(OPTIONS)  # kept: another run makes none again


def test_weights_that_were_trained_for_no_option_are_refused(
    generator: AdGenerator, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(AdGenerator, "from_pretrained", lambda name: generator)
    with pytest.raises(ValueError, match=r"other was trained for no option, expected weights that were"):
        Bench(tmp_path, "tiny", ["other"], 2)


def test_weights_are_named_by_what_they_were_trained_for(generator: AdGenerator, compact: AdGenerator) -> None:
    changes = {"distilled": 2.0, "generate.guidance": 1.0}
    distilled = AdGenerator(generator.model, generator.layout, override(generator.config, changes))
    all_of_it = AdGenerator(generator.model, generator.layout, override(compact.config, changes | {"model.row_lag": 2}))
    names = [COMPACT, DISTILLED, f"{COMPACT}, {DISTILLED}, {STAGGERED}"]
    assert [option_of("w", of) for of in (compact, distilled, all_of_it)] == names


def test_an_ad_is_made_in_as_many_steps_as_are_told(
    generator: AdGenerator, product: Product, clicks: tuple[Click, ...], monkeypatch
) -> None:
    taken, step, painter = [], generator.engine.step, generator.engine.painter
    monkeypatch.setattr(generator.engine, "step", lambda *args: taken.append(1) or step(*args))
    if painter is not None:
        paint = painter.paint
        monkeypatch.setattr(painter, "paint", lambda *args: taken.append(paint(*args)) or taken[-1])
    assert steps_of(generator, Example(product, clicks), 0) == sum(taken) > 0


# settings


def test_other_settings_are_of_the_same_model_and_engine(
    generator: AdGenerator, product: Product, clicks: tuple[Click, ...]
) -> None:
    before = generator.generate(product, clicks, seed=3)
    other = generator.with_settings({"generate.guidance_until": 0.25, "generate.guidance": "9"})
    assert (other.model, other.engine, other.layout) == (generator.model, generator.engine, generator.layout)
    assert (other.config.generate.guidance_until, other.config.generate.guidance) == (0.25, 9.0)
    assert other.generate(product, clicks, seed=3).record["guidance_until"] == 0.25
    after = generator.generate(product, clicks, seed=3)
    assert after.record == before.record
    assert np.array_equal(after.painted, before.painted)


def test_settings_of_the_weights_must_stay(generator: AdGenerator) -> None:
    with pytest.raises(ValueError, match=r"got the setting model.compact, expected one of generate"):
        generator.with_settings({"model.compact": True})
    with pytest.raises(ValueError, match="did you mean 'guidance_until'"):
        generator.with_settings({"generate.guidance_til": 0.5})


def test_the_command_line_takes_settings_of_sampling_alone(tiny_run: Path, product: Product, tmp_path: Path) -> None:
    product.cutout.save(tmp_path / "mug.png")
    said = ["--product", str(tmp_path / "mug.png"), "--description", "A red mug.", "--point", "kitchen mug"]
    said = ["generate", *said, "--model", str(tiny_run), "--out", str(tmp_path / "ad.png")]
    result = CliRunner().invoke(app, [*said, "--set", "generate.skip_product=true"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "ad.json").read_text())["skip_product"] is True
    for setting, answer in (
        ("data.num_clicks=2", "got the setting data.num_clicks, expected one of generate.: the others belong"),
        ("generate.guidance_until=2", "generate.guidance_until is 2.0, expected a share in [0, 1]"),
        ("generate.skip_margin=-1", "generate.skip_margin is -1, expected 0 cells or more"),
    ):
        result = CliRunner().invoke(app, [*said, "--set", setting])
        assert result.exit_code == 2
        assert answer in " ".join(result.output.split())


# how true the product is


def test_the_product_is_compared_as_it_was_painted(product: Product) -> None:
    placed = place(product.cutout, 96)
    painted = Image.new("RGB", (96, 96), "green")
    painted.paste(placed, mask=placed.getchannel("A"))
    darker = painted.point(lambda value: max(value - 20, 0))
    request = Request(0, "a", Example(product, ()))
    ads = [Ad(painted, picture, "", 0, {}) for picture in (painted, darker)]
    same, other = SCORERS["product"](Setting()).score(ads, [request] * 2)["product_psnr"]
    assert same > 50 and other == pytest.approx(10 * math.log10(255**2 / 400), abs=0.2)
