"""The two sentences of a clone of the release are found without running it. All sentences here are invented."""

from pathlib import Path

import pytest

from uniadgen.data.release import Prompts
from uniadgen.data.sentences import read_prompts

QUESTION = "Sell {points} to one who read {titles}. It is {description}, and they saw {pictures} before."
NEGATIVE = "dull, bent, smeared, upside down"
T, P = "<title_placeholder>", "<image_placeholder>"
FORMS = {
    "f-string": f'''q = f"Sell {{words}} to one who read {T}. It is {{sku}}, and they saw {P} before."''',
    "f-string with runs": f"""q = (f"Sell {{', '.join(w)}} to one who read {{'{T}' * 10}}. "
        f"It is {{sku}}, and they saw {{n * '{P}'}} before.")""",
    "format": f"""q = "Sell {{}} to one who read {T}{T}. It is {{1}}, and they saw {P} before.".format(w, s)""",
    "percent": f"""q = "Sell %s to one who read {T}. It is %s, and they saw {P} before." % (w, s)""",
    "sum": f'''q = "Sell " + w + " to one who read " + "{T}" * n + ". It is " + s + ", and they saw {P} before."''',
    "argument": f"""ask(f"Sell {{words}} to one who read {T}. It is {{sku}}, and they saw {P} before.")""",
}
NAMINGS = {
    "name": "negative_prompt = {}",
    "attribute": "class A:\n    def f(self):\n        self.neg: str = {}",
    "keyword": "paint(neg_prompt={})",
    "key": "options = {{'negative': {}}}",
    "default": "def paint(a, b=1, *, neg={}, **more):\n    pass",
    "sum": "NEG = {} + ''",
}


def clone(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / "clone" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return folder / "clone"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_both_are_found_however_they_are_written(tmp_path: Path, form: str, naming: str) -> None:
    made = clone(tmp_path, project__a=FORMS[form], b=NAMINGS[naming].format(repr(NEGATIVE)))
    assert read_prompts(made) == Prompts(QUESTION, NEGATIVE)


def test_a_sentence_that_stands_twice_is_one(tmp_path: Path) -> None:
    text = f"{FORMS['f-string']}\nNEG = {NEGATIVE!r}\n"
    assert read_prompts(clone(tmp_path, a=text, b=text)) == Prompts(QUESTION, NEGATIVE)


def test_the_clone_is_never_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"import pathlib\npathlib.Path('run').touch()\n{FORMS['sum']}\nNEG = {NEGATIVE!r}\n"
    read_prompts(clone(tmp_path, a=text))
    assert not Path("run").exists()


def test_what_is_no_python_and_the_transformers_it_brings_are_passed_by(tmp_path: Path) -> None:
    other = f"NEG = 'a, b, c, d'\n{FORMS['f-string'].replace('Sell', 'Buy')}"
    good = f"{FORMS['f-string']}\nNEG = {NEGATIVE!r}\n"
    made = clone(tmp_path, a=good, project__transformers__x=other, broken="print 'old", zero="NEG = '\0'")
    assert read_prompts(made) == Prompts(QUESTION, NEGATIVE)


def test_short_words_called_negative_are_no_prompt(tmp_path: Path) -> None:
    text = (
        f"{FORMS['f-string']}\nNEG = {NEGATIVE!r}\nnegative_label = 'negative'\nneg_slope = 0.1\nneg = f'a, b, {{c}}'"
    )
    assert read_prompts(clone(tmp_path, a=text)).negative == NEGATIVE


@pytest.mark.parametrize("order", [f"{{a}} {P} {{b}} {T}", f"{{a}} {T} {P}", f"{{a}} {T} {{b}} {P} {{c}}", f"{T} {P}"])
def test_a_question_in_an_order_that_is_not_known_is_not_guessed(tmp_path: Path, order: str) -> None:
    made = clone(tmp_path, a=f"q = f'{order}'\nNEG = {NEGATIVE!r}")
    with pytest.raises(ValueError, match=r"expected one question .*, found none: give it by hand: --question-file"):
        read_prompts(made)


def test_several_different_ones_are_named(tmp_path: Path) -> None:
    text = f"{FORMS['f-string']}\nNEG = {NEGATIVE!r}\n"
    made = clone(tmp_path, a=text, project__b="x = 1\nNEGATIVE = 'one, two, three'")
    message = r"expected one negative prompt .*, found 2 different ones \(a\.py:2, project/b\.py:2\): give it by hand"
    with pytest.raises(ValueError, match=message):
        read_prompts(made)


@pytest.mark.parametrize("given", [True, False])
def test_a_clone_that_is_not_there_is_named(tmp_path: Path, given: bool) -> None:
    with pytest.raises(ValueError, match="no such folder, expected a clone of the authors' release"):
        read_prompts(tmp_path / "nowhere" if given else None)


def test_both_can_be_given_by_hand(tmp_path: Path) -> None:
    question, negative = tmp_path / "q.txt", tmp_path / "n.txt"
    question.write_text(f"{QUESTION}\n")
    negative.write_text(f"{NEGATIVE}\n")
    assert read_prompts(None, question, negative) == Prompts(QUESTION, NEGATIVE)
    made = clone(tmp_path, a=FORMS["sum"].replace("Sell", "Buy") + "\nNEG = 'one, two, three'")
    assert read_prompts(made, question) == Prompts(QUESTION, "one, two, three")
    question.write_text(QUESTION.replace("{titles}", ""))
    with pytest.raises(ValueError, match=r"the question has 0 times \{titles\}, expected it once"):
        read_prompts(None, question, negative)
    with pytest.raises(ValueError, match=r"gone\.txt: no such file"):
        read_prompts(None, tmp_path / "gone.txt", negative)


def test_prompts_are_saved_and_loaded(tmp_path: Path) -> None:
    prompts = Prompts(QUESTION, "无聊, 歪")
    prompts.save(tmp_path / "prompts.json")
    assert Prompts.load(tmp_path / "prompts.json") == prompts


@pytest.mark.parametrize("content", ["{", "[]", '{"question": "x"}', '{"question": 1, "negative": "x"}'])
def test_damaged_prompts_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError, match=r"prompts\.json: damaged"):
        Prompts.load(tmp_path / "prompts.json")
