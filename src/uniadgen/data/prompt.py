"""The token layout: instruction, selling points, history, then `<text>` ... `</text> <image>` ... `</image>`."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.batch import Kind, Row
from uniadgen.data.cutout import place, premultiplied, squash

SPECIAL_TOKENS = ("<text>", "</text>", "<image>", "</image>", "<text_ph>", "<image_ph>")

# Paper section 4.3.2 and appendix 11: diverse templates; every one holds the text to the selling points.
TEMPLATES = {
    "en": (
        "Product: {description} Selling points: {points}. Write an ad text with these words only, then paint it.",
        "{description} It offers: {points}. Make an ad, text first, then picture; say nothing else.",
        "[Description] {description} [Selling points] {points}. Advertise it; the text keeps to [Selling points].",
        "Task: an ad. Facts allowed in its text: {points}. What it is: {description}",
        "{description} Sell it with a text of these points alone: {points}. Then show it.",
    ),
    "zh": (
        "商品：{description}卖点：{points}。请只用卖点中的词写一句广告文案，再画一张广告图。",
        "[描述]{description}[卖点]{points}。先写文案，再画图，文案不得超出[卖点]。",
        "任务：广告文案和广告图。文案只能使用：{points}。商品是：{description}",
    ),
}
# Paper section 4.4.2: the style constraint at the end, left out when there is no history.
STYLE = {
    "en": " Text style <text_ph>, image style <image_ph>.",
    "zh": "文案风格参照<text_ph>，图片风格参照<image_ph>。",
}
TITLES = 1 << 17  # texts whose token ids are remembered
_ENCODING = Lock()
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Shown(NamedTuple):
    """One click as the model sees it: its title, and the codes (P) of its picture."""

    text: str
    codes: np.ndarray


class Target(NamedTuple):
    """What the model is to learn: the advertising text and the codes (K) of the advertising picture."""

    text: str
    codes: np.ndarray


def language_of(text: str) -> str:
    """`zh` where there is a Chinese character, else `en`."""
    return "zh" if _CHINESE.search(text) else "en"


def instruction(description: str, selling_points: Sequence[str], has_history: bool, template: int) -> tuple[str, str]:
    """What a person said, set in a template (modulo the pool's size), and the style constraint with placeholders."""
    language = language_of(description + "".join(selling_points))
    pool = TEMPLATES[language]
    points = ("；" if language == "zh" else "; ").join(selling_points)
    text = pool[template % len(pool)].format(description=description, points=points)
    return text, STYLE[language] if has_history else ""


class Layout:
    """Lays out rows for one tokenizer and one config. Training, evaluation and serving have no other layout code."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.pad_id = token_id(tokenizer, tokenizer.pad_token)
        self.words = lru_cache(TITLES)(self._spell)  # a title comes back with every history that it stands in
        self._take_ids()

    def _take_ids(self) -> None:
        self.start_text, self.end_text, self.start_image, self.end_image, self.text_ph, self.image_ph = (
            token_id(self.tokenizer, token) for token in SPECIAL_TOKENS
        )

    @property
    def passes(self) -> tuple[str, ...]:
        """What is made from one prompt; where there are several, each is laid out anew with what was made before."""
        return (self.config.data.modality,)

    def branches(
        self,
        description: str,
        selling_points: Sequence[str],
        cutout: np.ndarray,
        clicks: Sequence[Shown],
        leave_out: str,
        text: str | None = None,
    ) -> tuple[Row, Row | None]:
        """The row that the engine goes on from, and that of the other guidance branch; None where they are the same.

        `leave_out` as in `GenerateConfig`; `text` is what an earlier pass wrote.
        """
        row = self.lay_out(description, selling_points, cutout, clicks)
        if leave_out == "product":
            return row, row  # they differ in their control alone
        different = bool(clicks) or leave_out == "both"
        return row, self.lay_out(description, selling_points, cutout, []) if different else None

    def save(self, folder: Path) -> None:
        """Writes into the folder of the weights what is needed to lay out rows, besides the recipe."""
        self.tokenizer.save_pretrained(folder)

    def is_whole(self, words: Sequence[int]) -> bool:
        """Whether a text is at its end before the model says so by the token `end_text`."""
        return False

    def said(self, words: Sequence[int]) -> str:
        """The text so far."""
        return str(self.tokenizer.decode(list(words)))

    def text_of(self, words: Sequence[int]) -> str:
        """The text once it has ended."""
        return self.said(words)

    def place(self, cutout: Image.Image, side: int) -> Image.Image:
        """The product on a transparent square canvas of `side` pixels, where it stands in the ad."""
        return place(cutout, side)

    def control(self, cutout: Image.Image) -> np.ndarray:
        """What foreground perception reads: (4, H, W) in [0, 1], premultiplied by alpha."""
        return premultiplied(self.place(cutout, self.config.data.image_size))

    def squash(self, picture: Image.Image) -> Image.Image:
        """A clicked picture as it is encoded, RGB."""
        return squash(picture, self.config.data.click_size)

    def lay_out(
        self,
        description: str,
        selling_points: Sequence[str],
        cutout: np.ndarray,
        clicks: Sequence[Shown],
        *,
        template: int = 0,
        target: Target | None = None,
    ) -> Row:
        """One row. Without a target it ends with the instruction; the engine writes the rest.

        `cutout` is (4, H, W) in [0, 1], premultiplied by alpha. Clicks are shown in the order given.
        """
        titles = tuple(self.words(click.text)[: self.config.data.click_words] for click in clicks)
        codes = np.stack([c.codes for c in clicks]) if clicks else np.zeros((0, self.config.click_cells), np.int64)
        row = Writer()
        row.write([token_id(self.tokenizer, self.tokenizer.bos_token)], Kind.PROMPT)
        said, style = instruction(description, selling_points, bool(clicks), template)
        row.write(self.words(said), Kind.PROMPT)
        for token in encode(self.tokenizer, style, special=True):
            if token == self.text_ph:
                row.write([word for title in titles for word in title], Kind.CLICK_TEXT)
            elif token == self.image_ph:
                row.write(codes.flatten(), Kind.CLICK_IMAGE)
            else:
                row.write([token], Kind.PROMPT)
        if target is not None:
            self._answer(row, target)
        return row.row(titles, codes, cutout)

    def _answer(self, row: "Writer", target: Target) -> None:
        if "text" in self.config.data.modality:
            row.write([self.start_text], Kind.PROMPT)
            row.write([*self.words(target.text), self.end_text], Kind.TEXT)
        if "image" in self.config.data.modality:
            row.write([self.start_image], Kind.PROMPT)
            row.write(target.codes, Kind.IMAGE)
            row.write([self.end_image], Kind.PROMPT)

    def _spell(self, text: str) -> tuple[int, ...]:
        """A person's words; `<image>` among them is spelt out and is no special token."""
        return encode(self.tokenizer, text)


class Writer:
    """Writes a row, kind by kind."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.kind: list[np.ndarray] = []

    def write(self, ids: Sequence[int] | np.ndarray, kind: Kind) -> None:
        """Appends positions of one kind."""
        self.ids.append(np.asarray(ids, dtype=np.int64))
        self.kind.append(np.full(len(ids), kind, dtype=np.int64))

    def row(self, titles: Sequence[Sequence[int]], codes: np.ndarray, cutout: np.ndarray) -> Row:
        """All that was written, and the clicks (N titles, codes (N, P)) and the product beside it."""
        click_ids = tuple(np.asarray(title, dtype=np.int64) for title in titles)
        ids, kind = np.concatenate(self.ids), np.concatenate(self.kind)
        return Row(ids, kind, click_ids, codes.astype(np.int64), cutout)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> tuple[int, ...]:
    """The ids of a text; special tokens in it are only words, unless `special` says that they count.

    Whether they count is a setting of the tokenizer itself while it works, so threads take turns.
    """
    with _ENCODING:
        return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not special))


def token_id(tokenizer: PreTrainedTokenizerBase, token: object, wanted: Sequence[str] = SPECIAL_TOKENS) -> int:
    """The id of a special token, read from the tokenizer and never written down; `ValueError` when it has none."""
    if not isinstance(token, str):
        raise ValueError("the tokenizer has no bos or pad token, expected both: add them before training")
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token}, expected {', '.join(wanted)}: add them first")
    return found
