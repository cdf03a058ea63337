"""How often the checks are right, on AdWorld's truth: AUC, limits at 5 % false alarms, and what is caught there."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table

from uniadgen.metrics.check import LIMITS, MEANING
from uniadgen.metrics.claims import measure_text
from uniadgen.metrics.faults import LANGUAGES, good_pictures, picture_faults, sample, wordings
from uniadgen.metrics.product import measure_picture
from uniadgen.metrics.rules import SHIPPED, find_claims, read_pack
from uniadgen.metrics.statistics import Interval, auc_of, bootstrap, mean_of, quantile_of

FALSE_ALARMS = 0.05
SHOWN = 6  # products whose pictures are kept to look at
_KEPT = ("recoloured", "shifted", "other product", "blurred", "painted, not pasted")
FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "psnr": _KEPT,
    "ssim": _KEPT,
    "colour": _KEPT,
    "attached": ("attached handle", "attached cable", "attached knob", "attached, other colour"),
    "contrast": ("low contrast",),
    "coverage": ("says little",),
    "unsupported": ("invented claim", "another product's point"),
    "numbers": ("changed number",),
    "listed": ("list of points",),
    "repeated": ("repeated phrase",),
    "rules": ("restricted claim",),
}


@dataclass(frozen=True)
class Value:
    """What one check measured on one ad; "" is no fault."""

    product: int
    check: str
    fault: str
    value: float | None


@dataclass(frozen=True)
class Row:
    """A check against a fault: intervals are 95 %, by product; `caught` is at the limit, and what could not be
    measured counts as missed."""

    check: str
    fault: str
    auc: Interval
    limit: Interval
    caught: Interval
    num_good: int
    num_faulty: int
    unmeasured: int  # of both


class Measured(NamedTuple):
    """All values, and the pictures of the first products: good ones, then one with each fault."""

    values: list[Value]
    shown: list[list[Image.Image]]


def measure_faults(num_products: int, seed: int, advance: Callable[[], None] = lambda: None) -> Measured:
    """Measures right and faulty ads of `num_products` products: pictures, and texts in both languages."""
    packs = [read_pack(name) for name in SHIPPED]
    values: list[Value] = []
    shown: list[list[Image.Image]] = []
    for number in range(num_products):
        of, rng = sample(number, seed), np.random.default_rng([seed, number, 1])
        good = [("", picture) for picture in good_pictures(of, rng).values()]
        pictures = [*good, *picture_faults(of, rng).items()]
        if number < SHOWN:
            shown.append([picture for _, picture in pictures])
        for fault, picture in pictures:
            measured = measure_picture(picture, of.placed)._asdict()
            values += [Value(number, check, fault, value) for check, value in measured.items()]
        for language in LANGUAGES:
            for wording in wordings(number, language, seed):
                said = measure_text(wording.text, wording.points, wording.description)
                hits = len(find_claims(wording.text, packs))
                measured = {check: getattr(said, check) for check in FAULTS if hasattr(said, check)} | {"rules": hits}
                values += [Value(number, check, wording.fault, value) for check, value in measured.items()]
        advance()
    return Measured(values, shown)


def calibrate(values: Sequence[Value], seed: int) -> list[Row]:
    """The rows of the table, by resampling products."""
    rows = []
    for check, faults in FAULTS.items():
        mine = [value for value in values if value.check == check]
        good = [value for value in mine if value.fault == "" and value.value is not None]
        limit = bootstrap(
            quantile_of([_badness(value) for value in good], 1 - FALSE_ALARMS),
            [value.product for value in good],
            np.random.default_rng(seed),
            method="percentile",
        )
        for fault in faults:
            faulty = [value for value in mine if value.fault == fault]
            both = [*good, *(value for value in faulty if value.value is not None)]
            auc = bootstrap(
                auc_of([_badness(value) for value in both], [value.fault != "" for value in both]),
                [value.product for value in both],
                np.random.default_rng(seed),
            )
            caught = bootstrap(
                mean_of([value.value is not None and _badness(value) > limit.value for value in faulty]),
                [value.product for value in faulty],
                np.random.default_rng(seed),
            )
            unmeasured = sum(value.value is None for value in mine if value.fault in ("", fault))
            rows.append(Row(check, fault, auc, _signed(check, limit), caught, len(good), len(faulty), unmeasured))
    return rows


def _badness(value: Value) -> float:
    assert value.value is not None, "only what was measured is compared"
    return -value.value if LIMITS[value.check].less_is_worse else value.value


def _signed(check: str, limit: Interval) -> Interval:
    return Interval(-limit.value, -limit.high, -limit.low) if LIMITS[check].less_is_worse else limit


def report(rows: Sequence[Row], num_products: int, seed: int) -> dict[str, Any]:
    """The figures for JSON."""
    written = [{**asdict(row), **{k: getattr(row, k)._asdict() for k in ("auc", "limit", "caught")}} for row in rows]
    return {"products": num_products, "seed": seed, "false_alarms": FALSE_ALARMS, "rows": written}


def table(rows: Sequence[Row], num_products: int) -> Table:
    """The figures for a terminal; the last column is the limit that `uniadgen check` uses."""
    out = Table(
        "check", "fault", "AUC", "caught", "limit", "good", "faulty", "unmeasured", "in use",
        title=f"Checks on AdWorld: {num_products} products, limits at {FALSE_ALARMS:.0%} false alarms",
    )  # fmt: skip
    for row in rows:
        auc = f"{row.auc.value:.3f} ({row.auc.low:.3f} .. {row.auc.high:.3f})"
        caught = f"{row.caught.value:.0%} ({row.caught.low:.0%} .. {row.caught.high:.0%})"
        limit = f"{row.limit.value:.3g} ({row.limit.low:.3g} .. {row.limit.high:.3g})"
        counts = str(row.num_good), str(row.num_faulty), str(row.unmeasured)
        out.add_row(row.check, row.fault, auc, caught, limit, *counts, f"{LIMITS[row.check].value:g}")
    return out


def plot(values: Sequence[Value]) -> Figure:
    """Every check: its values on good ads and on every fault, and the limit in use."""
    figure = Figure(figsize=(15, 11), layout="constrained")
    places = [figure.add_subplot(-(-len(FAULTS) // 3), 3, number) for number in range(1, len(FAULTS) + 1)]
    for place, (check, faults) in zip(places, FAULTS.items(), strict=True):
        groups = ["", *faults]
        for row, fault in enumerate(groups):
            shown = [v.value for v in values if v.check == check and v.fault == fault and v.value is not None]
            height = row + np.linspace(-0.3, 0.3, len(shown)) if shown else []
            place.scatter(shown, height, s=5, alpha=0.6, color="#c92a2a" if fault else "#2b8a3e", linewidths=0)
        place.axvline(LIMITS[check].value, color="#1d1d1f", linewidth=1)
        place.set_yticks(range(len(groups)), [fault or "good" for fault in groups])
        place.invert_yaxis()
        place.set_title(MEANING[check], fontsize=10)
    for place in figure.axes[len(FAULTS) :]:
        place.remove()
    return figure


def sheet(shown: Sequence[Sequence[Image.Image]], side: int = 192) -> Image.Image:
    """The ads themselves: products by rows; as made, after JPEG and so on, then every fault."""
    out = Image.new("RGB", (side * len(shown[0]), side * len(shown)))
    for y, row in enumerate(shown):
        for x, picture in enumerate(row):
            out.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (side * x, side * y))
    return out
