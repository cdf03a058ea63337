"""The release's two sentences, found in its user's own clone: its Python files are parsed and never run."""

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from uniadgen.data.release import FIELDS, Prompts

TITLE, PICTURE = "<title_placeholder>", "<image_placeholder>"
_GAP = "\0"  # stands for a value that is put in when the release runs
_FIELD = re.compile(r"\{\w*\}|%s")
_BY_HAND = "give it by hand: --question-file, --negative-file"


def read_prompts(clone: Path | None, question: Path | None = None, negative: Path | None = None) -> Prompts:
    """The question and the negative prompt, each from its own text file where there is one, else from the clone.

    Raises `ValueError` where there is neither, and where the clone holds no such sentence or several different ones.
    """
    found = [
        _read(file) if file is not None else _only(name, _searched(clone), find)
        for name, file, find in (("question", question, questions), ("negative prompt", negative, negatives))
    ]
    return Prompts(*found)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip("\r\n")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file, expected a sentence as text") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not a text in UTF-8") from None


def _searched(clone: Path | None) -> Path:
    if clone is None or not clone.is_dir():
        raise ValueError(
            f"{clone or '--release'}: no such folder, expected a clone of the authors' release, whose question and "
            f"negative prompt are needed and are not ours to ship: clone it, or {_BY_HAND}"
        )
    return clone


def _only(name: str, clone: Path, find: Callable[[ast.AST], Iterator[tuple[int, str]]]) -> str:
    """The one sentence that all Python files of a clone hold; the transformers that the release brings is left out."""
    places: dict[str, str] = {}
    for path in sorted(clone.rglob("*.py")):
        if "transformers" in path.relative_to(clone).parts or not path.is_file():
            continue
        for line, sentence in find(_parse(path)):
            places.setdefault(sentence, f"{path.relative_to(clone)}:{line}")
    if len(places) != 1:
        listed = list(places.values())
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        got = f"{len(listed)} different ones ({', '.join(listed[:5])}{more})" if listed else "none"
        raise ValueError(f"{clone}: expected one {name} in its Python files, found {got}: {_BY_HAND}")
    return next(iter(places))


def _parse(path: Path) -> ast.AST:
    """The tree of a file; an empty one where it is not Python 3, which the release does not run either."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def questions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and template of every string with both placeholders and two values, in the order that is known.

    That order is selling points, titles, description, pictures; a row of equal placeholders counts as one.
    """
    for line, text in _strings(tree):
        if TITLE not in text or PICTURE not in text:
            continue
        for placeholder in (TITLE, PICTURE):
            text = re.sub(f"(?:{placeholder})+", placeholder, text)
        parts = re.split(f"({_GAP}|{TITLE}|{PICTURE})", text)
        if parts[1::2] == [_GAP, TITLE, _GAP, PICTURE]:
            parts[1::2] = [f"{{{name}}}" for name in FIELDS]
            yield line, "".join(parts)


def negatives(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every list of words, with commas, that goes by a name, keyword or key with `neg` in it."""
    for node in ast.walk(tree):
        for name, value in _bound(node):
            text = _text(value)
            if "neg" in name.lower() and text is not None and _GAP not in text and text.count(",") > 1:
                yield value.lineno, text


def _bound(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What a node gives a name to."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((ast.unparse(target), value) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield ast.unparse(target), value
        case ast.keyword(arg=str() as name, value=value):
            yield name, value
        case ast.Dict(keys=keys, values=values):
            yield from ((_text(key) or "", value) for key, value in zip(keys, values, strict=True) if key is not None)
        case ast.arguments(posonlyargs=first, args=args, defaults=defaults, kwonlyargs=only, kw_defaults=own):
            named = [*first, *args][len(first) + len(args) - len(defaults) :]
            for argument, value in zip([*named, *only], [*defaults, *own], strict=True):
                if value is not None:
                    yield argument.arg, value


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Every whole string expression, not its parts."""
    if isinstance(node, ast.expr):
        text = _text(node)
        if text is not None:
            yield node.lineno, text if isinstance(node, ast.JoinedStr) else _FIELD.sub(_GAP, text)
            return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def _text(node: ast.AST) -> str | None:
    """The text of a string expression, a gap for every value in it; None where it is no string."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) or "" for value in values)
        case ast.FormattedValue(value=value):
            return _text(value) or _GAP
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = _text(left), _text(right)
            return None if texts == (None, None) else "".join(_GAP if text is None else text for text in texts)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _text(left) or _text(right)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            return _text(value)
    return None
