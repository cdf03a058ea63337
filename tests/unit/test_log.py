"""What a person sees of a run: plain lines where there is no terminal."""

import json

import pytest

from uniadgen.train.log import Metrics, progress_bar


def test_without_a_terminal_the_end_is_told_in_one_line(capsys) -> None:
    with progress_bar("render", 3) as bar:
        for _ in range(3):
            bar.advance("note")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "render 3/3 note\n"


@pytest.mark.parametrize("note", ["[/b] closed", "[red] mug", "a [b] c", "100 % [/]"])
def test_a_note_is_shown_as_it_is(capsys, note: str) -> None:
    with progress_bar("ad", 1) as bar:
        bar.advance(note)
    assert note in capsys.readouterr().err


def test_metrics_are_kept_up_to_the_first_step(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "a": 1}\n{"step": 1, "a": 2}\n{"step": 2, "a"')
    metrics = Metrics(path, 1)
    metrics.write(1, {"a": 5})
    metrics.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 0, "a": 1}, {"step": 1, "a": 5}]
