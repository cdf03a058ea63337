"""Advertising claims that rules restrict: patterns from rule packs in YAML, each with its source; not legal advice."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from uniadgen.config import nearest
from uniadgen.metrics.claims import folded

PACKS = Path(__file__).parent / "packs"
SHIPPED = tuple(sorted(path.stem for path in PACKS.glob("*.yaml")))
_KEYS = {"id", "language", "patterns", "why", "source", "date"}


@dataclass(frozen=True)
class Rule:
    """Wording, in lower case and NFKC, that a source restricts; `date` is that of the source in force."""

    id: str
    language: str
    patterns: tuple[re.Pattern[str], ...]
    why: str
    source: str
    date: datetime.date


@dataclass(frozen=True)
class Pack:
    """Rules that belong together; `notice` goes with every result."""

    name: str
    notice: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Hit:
    """A stretch of a text that a rule restricts, as the text has it."""

    text: str
    start: int
    end: int
    pack: str
    rule: str
    why: str
    source: str
    date: str
    notice: str


def read_pack(name: str | Path) -> Pack:
    """A shipped pack by its name, or one's own by the path of its YAML file.

    Raises `ValueError` saying what is wrong: an unknown name, a key missing or not known, a pattern that is none, a
    notice that does not say "not legal advice".
    """
    path = PACKS / f"{name}.yaml" if str(name) in SHIPPED else Path(name)
    if not path.is_file():
        raise ValueError(f"{name}: no such rule pack, expected one of {', '.join(SHIPPED)}, or the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.keys() != {"name", "notice", "rules"} or not content["rules"]:
            raise ValueError("expected the keys name, notice and rules, and at least one rule")
        if "not legal advice" not in str(content["notice"]).lower():
            raise ValueError(f'got notice {content["notice"]!r}, expected one that says "not legal advice"')
        rules = tuple(_rule(entry) for entry in content["rules"])
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    ids = [rule.id for rule in rules]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path}: two rules have the same id, expected every id once")
    return Pack(str(content["name"]), str(content["notice"]), rules)


def _rule(entry: Any) -> Rule:
    got = sorted(map(str, entry)) if isinstance(entry, dict) else [repr(entry)]
    if set(got) != _KEYS:
        close = nearest(next(iter(set(got) - _KEYS), ""), sorted(_KEYS))
        raise ValueError(f"a rule has {', '.join(got)}, expected {', '.join(sorted(_KEYS))}{close}")
    if not isinstance(entry["date"], datetime.date) or not isinstance(entry["patterns"], list):
        raise ValueError(f"rule {entry['id']}: expected a date like 2023-02-20 and a list of patterns")
    try:
        patterns = tuple(re.compile(str(pattern)) for pattern in entry["patterns"])
    except re.error as error:
        raise ValueError(f"rule {entry['id']}: {error}, expected a regular expression") from None
    if empty := [pattern.pattern for pattern in patterns if pattern.match("")]:
        raise ValueError(f"rule {entry['id']}: pattern {empty[0]!r} fits an empty text, expected one that does not")
    words = {key: str(entry[key]) for key in ("id", "language", "why", "source")}
    return Rule(**words, patterns=patterns, date=entry["date"])


def find_claims(text: str, packs: Sequence[Pack]) -> tuple[Hit, ...]:
    """Every restricted stretch of a text, in its order; width (NFKC) and case do not matter."""
    plain, places = folded(text)
    hits = {}
    for pack in packs:
        for rule in pack.rules:
            for pattern in rule.patterns:
                for match in pattern.finditer(plain):
                    start, end = places[match.start()], places[match.end() - 1] + 1
                    hits[start, end, pack.name, rule.id] = Hit(
                        text[start:end], start, end, pack.name, rule.id, rule.why, rule.source,
                        rule.date.isoformat(), pack.notice,
                    )  # fmt: skip
    return tuple(hits[key] for key in sorted(hits))
