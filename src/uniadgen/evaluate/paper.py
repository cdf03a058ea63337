"""The numbers that the paper prints, table by table, and which of our recipes stands for each of its rows."""

from dataclasses import dataclass
from typing import Final, NamedTuple


class Row(NamedTuple):
    """One row: what the paper calls it, our recipe of it (none: a system that is not ours), its printed numbers."""

    name: str
    recipe: str
    numbers: tuple[float | None, ...]  # one for each of the table's columns; None: not printed


class Column(NamedTuple):
    """One measure: the paper's name, ours of the same (none: we have no such measure), the digits that are printed."""

    name: str
    key: str
    digits: int = 3


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper."""

    number: int
    what: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    reference: str  # the row that all others are tested against
    beside: tuple[str, ...]  # our keys of what AdWorld tells and the paper has not
    metrics: tuple[str, ...]  # the scorers of all these

    @property
    def ours(self) -> list[Row]:
        """The rows that we have a recipe of."""
        return [row for row in self.rows if row.recipe]

    @property
    def recipe_of_reference(self) -> str:
        """Ours of the reference."""
        return next(row.recipe for row in self.ours if row.name == self.reference)


_PERSONAL = (Column("PBS", "pbs"), Column("BLEU", "bleu"), Column("ROUGE", "rouge_l"))
_BESIDE = ("palette", "layout", "lighting", "liked", "manner")
_METRICS = ("pbs", "text", "style", "words")

TABLES: Final = {
    "table1": PaperTable(
        1,
        "General advertisement generation: no shopper is known. Other systems were measured by the paper alone.",
        (
            Column("ASE", "ase", 2),
            Column("IR", "imagereward"),
            Column("PS", "pickscore"),
            Column("Human Eval, picture, %", "", 2),
            Column("m-BLEU", "m_bleu"),
            Column("m-ROUGE", "m_rouge"),
            Column("Human Eval, text, %", "", 2),
        ),
        (
            Row("GPT-4o + ReliableAd", "", (5.26, -1.491, 20.888, 93.80, None, None, None)),
            Row("Qwen2.5vl + ReliableAd", "", (5.29, -1.516, 20.890, 95.20, None, None, None)),
            Row("GPT-4o + PosterMaker", "", (5.42, -1.332, 20.970, 90.00, None, None, None)),
            Row("Qwen2.5vl + PosterMaker", "", (5.34, -1.399, 20.977, 90.80, None, None, None)),
            Row("GPT-4o + Flux-Fill", "", (5.21, -1.281, 20.926, 88.00, None, None, None)),
            Row("Qwen2.5vl + Flux-Fill", "", (5.14, -1.311, 20.918, 86.80, None, None, None)),
            Row("Ours-image", "nano_image", (5.42, -1.351, 21.081, 92.40, None, None, None)),
            Row("Qwen2.5", "", (None, None, None, None, 0.530, 0.651, 97.00)),
            Row("Qwen3", "", (None, None, None, None, 0.562, 0.652, 99.60)),
            Row("DeepSeek-R1", "", (None, None, None, None, 0.533, 0.653, 97.80)),
            Row("Ours-text", "nano_text", (None, None, None, None, 0.559, 0.650, 97.80)),
            Row("Ours", "nano_baseline", (5.25, -1.244, 21.002, 92.60, 0.551, 0.654, 98.20)),
        ),
        "Ours",
        ("passed_picture", "passed_text", "faithful"),
        ("text", "words", "checks_picture", "checks_text"),
    ),
    "table2": PaperTable(
        2,
        "Personalised generation, part by part. Other systems were measured by the paper alone.",
        _PERSONAL,
        (
            Row("Pigeon", "", (0.624, None, None)),
            Row("Flux-Kontext", "", (0.514, None, None)),
            Row("Qwen3", "", (None, 0.345, 0.580)),
            Row("DeepSeek-R1", "", (None, 0.373, 0.622)),
            Row("Baseline", "nano_baseline", (0.617, 0.225, 0.525)),
            Row("w/ history", "nano_history", (0.606, 0.427, 0.650)),
            Row("w/ PSS", "nano_pss", (0.622, 0.430, 0.652)),
            Row("Ours", "nano", (0.634, 0.435, 0.662)),
        ),
        "Ours",
        _BESIDE,
        _METRICS,
    ),
    "table3": PaperTable(
        3,
        "History length: how many clicks the model is shown. nano's own length is 6, which the paper has not.",
        _PERSONAL,
        (
            Row("0", "nano_baseline", (0.617, 0.225, 0.525)),
            Row("3", "nano_3_clicks", (0.631, 0.375, 0.615)),
            Row("5", "nano_5_clicks", (0.639, 0.400, 0.637)),
            Row("6", "nano", (None, None, None)),
            Row("8", "nano_8_clicks", (0.623, 0.414, 0.650)),
            Row("10", "nano_10_clicks", (0.634, 0.435, 0.662)),
            Row("12", "nano_12_clicks", (0.624, 0.417, 0.644)),
        ),
        "10",
        _BESIDE,
        _METRICS,
    ),
    "table4": PaperTable(
        4,
        "Sampling strategy: which clicks the full model is shown.",
        _PERSONAL,
        (
            Row("Random Sampling", "nano_at_random", (0.610, 0.431, 0.656)),
            Row("Most-similar Sampling", "nano_most_similar", (0.618, 0.439, 0.663)),
            Row("Product Similarity Sampling", "nano", (0.634, 0.435, 0.662)),
        ),
        "Product Similarity Sampling",
        _BESIDE,
        _METRICS,
    ),
}
