"""All checks of one ad at once: each value beside its calibrated limit, and what to look at where it fails.

A pass says only that nothing of a known kind was found. Faults of size, perspective and taste are for people.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.table import Table

from uniadgen.data.cutout import place
from uniadgen.metrics.claims import Span, measure_text
from uniadgen.metrics.product import measure_picture
from uniadgen.metrics.rules import SHIPPED, Hit, Pack, find_claims, read_pack


class Limit(NamedTuple):
    """Where a value begins to be suspicious."""

    value: float
    less_is_worse: bool


# Of good ads 5 % lie beyond these: `uniadgen bench checks --products 16` (docs/checks.md), shares rounded so that a
# text at the limit passes.
LIMITS: Final[dict[str, Limit]] = {
    "psnr": Limit(31.1, True),
    "ssim": Limit(0.963, True),
    "colour": Limit(2.8, False),
    "attached": Limit(0.145, False),
    "contrast": Limit(15.9, True),
    "coverage": Limit(0.27, True),
    "unsupported": Limit(0.112, False),
    "numbers": Limit(0, False),
    "listed": Limit(3, False),
    "repeated": Limit(0.082, False),
    "rules": Limit(0, False),
}
MEANING: Final[dict[str, str]] = {
    "psnr": "product kept: PSNR, dB",
    "ssim": "product kept: SSIM",
    "colour": "product kept: colour difference, CIEDE2000",
    "attached": "grown onto the product, share of its area",
    "contrast": "contrast with the background, CIEDE2000",
    "coverage": "selling points said, share",
    "unsupported": "words that nothing backs, share",
    "numbers": "numbers that nothing backs",
    "listed": "selling points listed in a row",
    "repeated": "repetition, share",
    "rules": "restricted claims",
}


@dataclass(frozen=True)
class Finding:
    """One check: its value (None where it cannot be measured, and then why), its limit, and whether it passed."""

    check: str
    value: float | None
    limit: float
    less_is_worse: bool
    passed: bool | None
    note: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All checks of one ad. `spans` is the whole text, stretch by stretch; `hits` are restricted claims."""

    findings: tuple[Finding, ...]
    spans: tuple[Span, ...] = ()
    hits: tuple[Hit, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was found; what could not be measured does not count."""
        return all(finding.passed is not False for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        spans = [span._asdict() for span in self.spans]
        hits = [asdict(hit) for hit in self.hits]
        return {"passed": self.passed, "findings": [asdict(f) for f in self.findings], "spans": spans, "hits": hits}


def check(
    picture: Image.Image | None = None,
    cutout: Image.Image | None = None,
    text: str | None = None,
    selling_points: Sequence[str] = (),
    description: str = "",
    rules: Sequence[str | Pack] = SHIPPED,
) -> CheckReport:
    """Checks an ad's picture against the product's cut-out, its text against the product's words, or both.

    In a square ad the cut-out stands where `uniadgen generate` puts it; in any other it must have the ad's size.
    `rules` names shipped packs, or YAML files of one's own; for many ads read them once (`read_pack`).
    Raises `ValueError` for a picture without cut-out, nothing to check, or what the measures refuse.
    """
    if picture is None and text is None:
        raise ValueError("got neither a picture nor a text, expected at least one: there is nothing to check")
    if (picture is None) != (cutout is None):
        raise ValueError("got only one of the ad's picture and the product's cut-out, expected both, or neither")
    packs = [rule if isinstance(rule, Pack) else read_pack(rule) for rule in rules]
    findings: list[Finding] = []
    if picture is not None and cutout is not None:
        measures = measure_picture(picture, placed_in(picture, cutout))
        reasons = {"attached": "the background has the product's colours", "contrast": "the ad shows no background"}
        for name, value in measures._asdict().items():
            findings.append(_finding(name, value, reasons.get(name, "the product is too thin")))
    if text is None:
        return CheckReport(tuple(findings))
    said = measure_text(text, selling_points, description)
    hits = find_claims(text, packs)
    doubtful = {
        kind: ", ".join(repr(span.text) for span in said.doubtful if span.kind == kind)[:200]
        for kind in ("unsupported", "number")
    }
    missing = "no selling points were given" if said.coverage is None else "" if text.strip() else "the text is empty"
    findings += [
        _finding("coverage", said.coverage, missing),
        _finding("unsupported", said.unsupported, doubtful["unsupported"]),
        _finding("numbers", said.numbers, doubtful["number"]),
        _finding("listed", said.listed),
        _finding("repeated", said.repeated),
    ]
    if packs:
        notices = "; ".join(dict.fromkeys(pack.notice for pack in packs))
        findings.append(_finding("rules", len(hits), notices))
    if not text.strip():
        findings = [
            f if f.check != "coverage" else Finding(**{**asdict(f), "note": "the text is empty"}) for f in findings
        ]
    return CheckReport(tuple(findings), said.spans, hits)


def placed_in(picture: Image.Image, cutout: Image.Image) -> Image.Image:
    """The cut-out as it stands in the ad: RGBA of the ad's size; raises `ValueError` where that is not known."""
    if cutout.mode != "RGBA":
        raise ValueError(f"the product picture has mode {cutout.mode}, expected RGBA: cut the product out first")
    alpha = np.asarray(cutout.getchannel("A"))
    low, high = alpha.min(), alpha.max()
    if high < 128 or low == 255:
        state = "nowhere opaque" if high < 128 else "nowhere transparent"
        raise ValueError(f"the product picture is {state}, expected a product on a transparent background")
    if picture.width == picture.height:
        return place(cutout, picture.width)
    if picture.size == cutout.size:
        return cutout
    raise ValueError(
        f"the ad has {picture.width} x {picture.height} pixels and the product {cutout.width} x {cutout.height}, "
        "expected a square ad, where it is known where the product stands, or equal sizes: put the cut-out on a "
        "transparent canvas of the ad's size"
    )


def _finding(name: str, value: float | None, note: str = "") -> Finding:
    limit = LIMITS[name]
    passed = None if value is None else (value >= limit.value if limit.less_is_worse else value <= limit.value)
    return Finding(name, value, limit.value, limit.less_is_worse, passed, "" if passed and name != "rules" else note)


def table(report: CheckReport) -> Table:
    """The report for a terminal: the checks, then what backs each stretch of the text, then restricted claims."""
    out = Table("check", "value", "limit", "", "look at", title="Checks of one ad")
    for f in report.findings:
        bound = f"{'at least' if f.less_is_worse else 'at most'} {f.limit:g}"
        verdict = {None: "-", True: "pass", False: "[bold]WARN[/bold]"}[f.passed]
        out.add_row(MEANING[f.check], "-" if f.value is None else f"{f.value:.4g}", bound, verdict, escape(f.note))
    for span in report.spans:
        if span.kind != "connecting":
            backed = f"said by: {span.source}" if span.source else "said by nothing that was given"
            out.add_row(f"  {escape(span.text)}", "", "", "", escape(backed))
    for hit in report.hits:
        rule = f"{hit.pack}/{hit.rule}: {hit.why} {hit.source}, {hit.date}. {hit.notice}"
        out.add_row(f"  {escape(hit.text)}", "", "", "", escape(rule))
    return out
