"""The authors' release: its token layout, and how it prepares pictures, where it differs from the paper."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.batch import Kind, Row
from uniadgen.data.cutout import as_released, on_white, premultiplied
from uniadgen.data.prompt import Layout, Shown, Target, Writer, token_id

PROMPTS = "prompts.json"  # beside the weights
FIELDS = ("points", "titles", "description", "pictures")
SIDE = 512  # px to which it first squashes every picture
IMAGE_TOKENS = ("<begin_of_image>", "<end_of_image>")  # of Janus
NEW_TOKENS = (  # what it adds to the tokenizer of Janus, in this order, which is that of the stored embeddings
    *("<title_placeholder>", "<begin_of_history_title>", "<end_of_history_title>"),
    *("<grounding>", "</grounding>", "<box>", "</box>", "<ref>", "</ref>"),
)
USER, ASSISTANT = "<|User|>: ", "\n\n<|Assistant|>:"  # DeepSeek's chat format
END = "</prompt>"
ANSWER = f"{ASSISTANT} <prompt>"


@dataclass(frozen=True)
class Prompts:
    """The release's two sentences, which are its user's and not ours: they stand in the folder of the weights only.

    `question` has the fields {points}, {titles}, {description}, {pictures}, each once; `ValueError` otherwise.
    """

    question: str
    negative: str  # what a picture should not be: the prompt of the other guidance branch

    def __post_init__(self) -> None:
        for name in FIELDS:
            number = self.question.count(f"{{{name}}}")
            if number != 1:
                raise ValueError(f"the question has {number} times {{{name}}}, expected it once: {self.question!r}")
        if not self.negative.strip():
            raise ValueError("the negative prompt is empty, expected what a picture should not be")

    def save(self, path: Path) -> None:
        """Writes what `load` reads."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Prompts":
        """`ValueError` where the file is missing or damaged."""
        try:
            return Prompts(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, expected what `uniadgen convert official` wrote") from None
        except (TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: damaged, expected JSON with question and negative ({error})") from None


class ReleaseLayout(Layout):
    """As the authors' release lays out and prepares what its model reads.

    One question in DeepSeek's chat format, titles before pictures, each between tags; titles are padded to
    `click_words` tokens, which count as words. The text stands between `<prompt>` and `</prompt>`, both ordinary words.
    The picture is made from a second prompt, with the text in it; its other guidance branch is the negative prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Config, prompts: Prompts) -> None:
        self.prompts: Prompts = prompts
        super().__init__(tokenizer, config)

    def _take_ids(self) -> None:
        named = (self.tokenizer.bos_token, self.tokenizer.eos_token, *IMAGE_TOKENS, *NEW_TOKENS[1:3])
        self.bos, self.end_text, self.start_image, self.end_image, self.start_title, self.end_title = (
            token_id(self.tokenizer, token, IMAGE_TOKENS + NEW_TOKENS) for token in named
        )
        tokenizer: Any = self.tokenizer
        self.tokens: dict[str, int] = tokenizer.get_added_vocab()
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))) + ")")
        self.start_text = self._encode(ANSWER)[-1]

    @property
    def passes(self) -> tuple[str, ...]:
        """The text, then the picture from a prompt with that text."""
        return ("text", "image")

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
        """The row of the first pass, up to where the text begins; there is one template. No rows to learn from yet."""
        if target is not None:
            raise ValueError("the release's layout has no rows to learn from, expected the variant paper: train that")
        row = self._question(description, selling_points, cutout, clicks, ANSWER)
        assert row.ids[-1] == self.start_text, "the same words end every question"
        return dataclasses.replace(row, ids=row.ids[:-1], kind=row.kind[:-1])  # the engine feeds the last one

    def branches(
        self,
        description: str,
        selling_points: Sequence[str],
        cutout: np.ndarray,
        clicks: Sequence[Shown],
        leave_out: str,
        text: str | None = None,
    ) -> tuple[Row, Row | None]:
        """Without `text` the row of the first pass, which is not guided; with it those of the second."""
        if text is None:
            return self.lay_out(description, selling_points, cutout, clicks), None
        row = self._question(description, selling_points, cutout, clicks, f"{ANSWER}{{text}}{END}", text)
        row = dataclasses.replace(row, ids=np.append(row.ids, self.end_text), kind=np.append(row.kind, Kind.PROMPT))
        negative = Writer()
        negative.write([self.bos, *self._encode(f"{USER}{self.prompts.negative}{ASSISTANT}")], Kind.PROMPT)
        return row, negative.row((), np.zeros((0, self.config.click_cells), np.int64), cutout)

    def _question(
        self,
        description: str,
        selling_points: Sequence[str],
        cutout: np.ndarray,
        clicks: Sequence[Shown],
        answer: str,
        text: str = "",
    ) -> Row:
        most, pad = self.config.data.click_words, self.pad_id
        titles = [[*self.words(click.text), *[pad] * most][:most] for click in clicks]
        words = {"points": ",".join(selling_points), "description": description, "text": text}
        row = Writer()
        row.write([self.bos], Kind.PROMPT)
        for piece in re.split(r"(\{titles\}|\{pictures\})", f"{USER}{self.prompts.question}{answer}"):
            if piece == "{titles}":
                for title in titles:
                    row.write([self.start_title], Kind.PROMPT)
                    row.write(title, Kind.CLICK_TEXT)
                    row.write([self.end_title], Kind.PROMPT)
            elif piece == "{pictures}":
                for click in clicks:
                    row.write([self.start_image], Kind.PROMPT)
                    row.write(click.codes, Kind.CLICK_IMAGE)
                    row.write([self.end_image], Kind.PROMPT)
            else:
                row.write(self._encode(piece, words), Kind.PROMPT)
        codes = [click.codes for click in clicks]
        shown = np.stack(codes) if codes else np.zeros((0, self.config.click_cells), np.int64)
        return row.row(titles, shown, cutout)

    def _encode(self, template: str, words: Mapping[str, str] = MappingProxyType({})) -> list[int]:
        """Token ids of a template. Special tokens in it count; in the words put into its fields they are only words."""
        ids: list[int] = []
        for piece in self._split.split(template):
            if piece in self.tokens:
                ids.append(self.tokens[piece])
            else:
                ids += self.words(re.sub(r"\{(\w+)\}", lambda field: words.get(field[1], field[0]), piece))
        return ids

    def save(self, folder: Path) -> None:
        """Also the prompts."""
        super().save(folder)
        self.prompts.save(folder / PROMPTS)

    def is_whole(self, words: Sequence[int]) -> bool:
        """`</prompt>` is spelt in ordinary tokens, at most one for each of its letters."""
        return END in str(self.tokenizer.decode(list(words[-len(END) :])))

    def said(self, words: Sequence[int]) -> str:
        """What stands before `</prompt>`."""
        return str(self.tokenizer.decode(list(words), skip_special_tokens=True)).split(END)[0]

    def text_of(self, words: Sequence[int]) -> str:
        """As the release has it: a text that never came to `</prompt>` counts as none."""
        return self.said(words) if self.is_whole(words) else ""

    def place(self, cutout: Image.Image, side: int) -> Image.Image:
        """Squashed to a square, the product where and as large as its picture has it."""
        return as_released(cutout).resize((side, side), Image.Resampling.BICUBIC)

    def control(self, cutout: Image.Image) -> np.ndarray:
        """On white, therefore opaque."""
        return premultiplied(on_white(as_released(cutout), SIDE).convert("RGBA"))

    def squash(self, picture: Image.Image) -> Image.Image:
        """Squashed twice."""
        side = self.config.data.click_size
        large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return large.resize((side, side), Image.Resampling.BICUBIC)


def layout_of(tokenizer: PreTrainedTokenizerBase, config: Config, prompts: Prompts | None = None) -> Layout:
    """The layout of the config's variant; `ValueError` where the release's prompts are missing."""
    if config.model.variant == "paper":
        return Layout(tokenizer, config)
    if prompts is None:
        raise ValueError("no prompts for the variant release, expected those of its clone: `uniadgen convert official`")
    return ReleaseLayout(tokenizer, config, prompts)
