"""The comparison of precisions: the same requests in both, differences measured after one and the same ad."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from uniadgen import AdGenerator
from uniadgen import precision as module
from uniadgen.config import override
from uniadgen.engine import building
from uniadgen.precision import Precisions, error_of, logits_of, make, table

library = building.library()
needs_int8 = pytest.mark.skipif(library is None or not library.has_int8(), reason="needs a C++ compiler and VNNI")


@pytest.fixture(params=[pytest.param("int8", marks=needs_int8), "fp8"])
def both(request: pytest.FixtureRequest, generator: AdGenerator, rendering: None, monkeypatch) -> Precisions:
    """Two requests, on the trained tiny nano; the judge, who renders long, finds every style right."""

    def loaded(name: str, device: str | None, precision: str) -> AdGenerator:
        return AdGenerator(copy.deepcopy(generator.model), generator.layout, generator.config, precision)

    monkeypatch.setattr(AdGenerator, "from_pretrained", loaded)
    monkeypatch.setattr(module.StyleScorer, "score", lambda self, made, asked: {"palette": np.ones(len(made))})
    return Precisions("tiny", 2, request.param)


def test_both_make_the_same_requests(both: Precisions, tmp_path: Path) -> None:
    report = both.measure()
    assert [line.precision for line in report.lines] == ["model", both.precisions[1]]
    assert all(line.seconds > 0 and len(line.turns) == 2 and line.truth["palette"] == 1 for line in report.lines)
    assert 0 < report.word_error < 0.1 and 0 < report.code_error < 0.1
    assert (0 < report.picture_error < 2) == (both.precisions[1] == "int8")  # fp8 leaves the VQ as it is
    assert report.same_choice > 0.5 and 0 <= report.same_codes <= 1
    report.save(tmp_path / "precision.json")
    assert json.loads((tmp_path / "precision.json").read_text())["lines"][1]["precision"] == both.precisions[1]
    assert table(report).row_count == 2


def test_logits_are_those_that_the_ad_was_made_with(both: Precisions) -> None:
    """Greedy and not guided, each word and each code is the likeliest one after those before."""
    generator, request = both.generators[0], both.requests[0]
    plain = {"temperature": 0.0, "guidance": 1.0, "connecting_words": ()}
    generator.config = override(generator.config, {f"generate.{name}": value for name, value in plain.items()})
    made = make(generator, request)
    words, codes = logits_of(generator, request, made)
    assert codes.argmax(-1).tolist() == made.codes.tolist()
    assert len(words) == len(made.words) + 1
    assert error_of(codes, codes) == 0
