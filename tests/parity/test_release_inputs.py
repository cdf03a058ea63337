"""What the release's model is given, against the authors' own code: the clicks drawn and the control picture.

`history_sampling.json` has drawn indices of synthetic histories; of the control pictures of `product.png`, a synthetic
cut-out, the SHA-256 of their bytes is kept. All were made with the release at commit 4748701.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uniadgen.data.cutout import as_released, on_white
from uniadgen.data.history import release

HERE = Path(__file__).parent
CASES = {case["name"]: case for case in json.loads((HERE / "history_sampling.json").read_text())}
PICTURES = {
    "white 1.0": "76a0b8ae9cf4a171e0a079844fef7b0684fd7f3b85c354711a65561cbe4925de",
    "alpha 1.0": "51aa39d4cd8af02402dfe20fd00285f167e794f75b8ee675d81e4db1ca6fab4a",
    "white 0.5": "3b45c3c5bf5218d227ad9ad424bf0a2abecb16fe7c8a00862f0715fea3ee2e0e",
    "alpha 0.5": "bf63c5597541b17bc05dd86afefbca004864468988d2efedd1b200cd092869f3",
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_clicks_are_drawn_in_the_same_order(name: str) -> None:
    case = CASES[name]
    barred = [i for i, title in enumerate(case["titles"]) if title == case["gt_title"]]
    ask = lambda: release(case["similarities"], case["k"], np.random.default_rng(1), barred)  # noqa: E731
    if "error" in case["result"]:
        with pytest.raises(ValueError, match="the history has 4 clicks, expected 5 or more"):
            ask()
    else:
        assert [f"i{i}" for i in ask()] == case["result"]["images"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_control_picture_is_the_releases_to_the_byte(name: str) -> None:
    kind, ratio = name.split()
    cutout = as_released(Image.open(HERE / "product.png").convert("RGBA"), float(ratio))
    made = on_white(cutout, 512) if kind == "white" else cutout.resize((512, 512), Image.Resampling.BICUBIC)
    assert hashlib.sha256(np.asarray(made).tobytes()).hexdigest() == PICTURES[name]
