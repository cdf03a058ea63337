"""`uniadgen check` and its calibration: a good ad passes, faults are told, and the limits hold on AdWorld."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from uniadgen.__main__ import app
from uniadgen.metrics.calibration import FAULTS, Value, calibrate, plot, table
from uniadgen.metrics.check import LIMITS, MEANING, check
from uniadgen.metrics.faults import LANGUAGES, wordings
from uniadgen.metrics.product import PictureMeasures


def run(*arguments: object):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def ad(product, tmp_path, monkeypatch) -> Image.Image:
    """ad.png and mug.png of the red disc, in a folder of their own."""
    from uniadgen.data.cutout import place
    from uniadgen.data.pasting import paste

    monkeypatch.chdir(tmp_path)
    product.cutout.save("mug.png")
    picture = paste(Image.new("RGB", (60, 60), (150, 190, 220)), place(product.cutout, 180))
    picture.save("ad.png")
    return picture


GOOD = ("--text", "Kitchen mug: dishwasher safe", "--point", "kitchen mug", "--point", "dishwasher safe")


def test_a_good_ad_passes(ad: Image.Image) -> None:
    result = run("ad.png", "--product", "mug.png", *GOOD)
    assert result.exit_code == 0, result.output
    assert "WARN" not in result.output and result.output.count("pass") == len(LIMITS)
    assert "ot legal advice" in result.output


def test_faults_are_told_with_exit_code_1_also_as_json(ad: Image.Image) -> None:
    Image.merge("RGB", ad.split()[::-1]).save("blue.png")
    result = run("blue.png", "--product", "mug.png", "--text", "The world's best mug, 99 days", *GOOD[2:], "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    failed = {finding["check"] for finding in told["findings"] if finding["passed"] is False}
    assert {"colour", "psnr", "numbers", "unsupported", "rules"} <= failed
    assert told["hits"][0]["rule"] == "first-or-best" and "not legal advice" in told["hits"][0]["notice"].lower()
    assert {"99 days"} <= {span["text"] for span in told["spans"] if span["kind"] == "number"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to check"),
        (("ad.png",), "got only one of"),
        (("ad.png", "--product", "ad.png"), "without transparency"),
        (("wide.png", "--product", "mug.png"), "the ad has 90 x 60 pixels"),
        (("ad.png", "--product", "empty.png"), "nowhere opaque"),
        ((*GOOD, "--rules", "xx-ads"), "xx-ads: no such rule pack"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_line(ad: Image.Image, arguments: tuple, message: str) -> None:
    Image.new("RGB", (90, 60)).save("wide.png")
    Image.new("RGBA", (60, 60)).save("empty.png")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_texts_alone_empty_or_without_points_are_checked() -> None:
    empty = check(text="", selling_points=("kitchen mug",))
    assert not empty.passed
    assert [f.note for f in empty.findings if f.check == "coverage"] == ["the text is empty"]
    bare = check(text="Enjoy this [bold]😀", rules=())
    assert {f.check: f.passed for f in bare.findings}["coverage"] is None
    assert all(finding.check != "rules" for finding in bare.findings)


def test_every_check_has_a_limit_a_meaning_and_faults_to_calibrate_it() -> None:
    assert set(LIMITS) == set(MEANING) == set(FAULTS)
    assert set(PictureMeasures._fields) < set(LIMITS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_known_faults_of_texts_are_caught_and_good_texts_pass(language: str) -> None:
    warned: dict[str, list[bool]] = {}
    for number in range(12):
        for wording in wordings(number, language, seed=99):
            report = check(text=wording.text, selling_points=wording.points, description=wording.description)
            failed = {finding.check for finding in report.findings if finding.passed is False}
            expected = {name for name, faults in FAULTS.items() if wording.fault in faults} or failed
            warned.setdefault(wording.fault, []).append(bool(expected & failed))
    assert np.mean(warned.pop("")) < 0.25
    assert all(np.mean(hits) > 0.7 for hits in warned.values()), {k: np.mean(v) for k, v in warned.items()}


def test_calibration_finds_the_limit_and_what_it_catches() -> None:
    rng = np.random.default_rng(0)
    values = []
    for check_name, faults in FAULTS.items():
        sign = -1 if LIMITS[check_name].less_is_worse else 1
        for product in range(40):
            values += [Value(product, check_name, "", sign * x) for x in rng.normal(size=2)]
            values += [Value(product, check_name, f, sign * (rng.normal() + 2.5)) for f in faults]
        values.append(Value(0, check_name, faults[0], None))
    rows = calibrate(values, 0)
    for row in rows:
        sign = -1 if LIMITS[row.check].less_is_worse else 1
        assert sign * row.limit.value == pytest.approx(1.64, abs=0.5)
        assert row.limit.low <= row.limit.value <= row.limit.high
        assert 0.9 < row.auc.value < 1 and 0.6 < row.caught.value < 1
        assert row.unmeasured == (row.fault == FAULTS[row.check][0])
    assert table(rows, 40).row_count == sum(map(len, FAULTS.values()))
    assert len(plot(values).axes) == len(FAULTS)
