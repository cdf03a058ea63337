"""Decoding step by step against the whole sequence at once, and requests that do not disturb each other."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.sampling import draw, guide, sample

# Free text: what keeps it to the selling points has its own tests (test_faithful.py).
PLAIN = GenerateConfig(guidance=1.0, text_top_k=0, image_top_k=0, max_words=8)
GUIDED = replace(PLAIN, guidance=3.0)


def decode(model, layout: Layout, rows, seeds, config: GenerateConfig = PLAIN) -> Progress:
    """Decodes requests to the end."""
    points = [("kitchen mug", "dishwasher safe")] * len(seeds)
    *_, last = Decoder(model, layout, config, list(seeds), points).run(collate(rows, layout.pad_id))
    return last


@pytest.fixture
def ask(make_row: Callable[..., Row]) -> Callable[..., Row]:
    """A request with so many clicks."""
    return lambda num_clicks, seed=0: make_row(seed, num_clicks, target=False)


@dataclass
class Heard:
    """Every logit that a model gave, in order: of words and of codes."""

    words: list[torch.Tensor] = field(default_factory=list)
    codes: list[torch.Tensor] = field(default_factory=list)


@pytest.fixture
def heard(model, monkeypatch) -> Heard:
    """Listens to the model."""
    heard = Heard()
    for name, into in (("text_logits", heard.words), ("image_logits", heard.codes)):
        call = getattr(model, name)

        def listening(*given, call=call, into=into):
            into.append(call(*given))
            return into[-1]

        monkeypatch.setattr(model, name, listening)
    return heard


@pytest.fixture
def terse(model, layout: Layout, monkeypatch):
    """A model that ends a text with a chance of about a fifth after every word."""
    call = model.text_logits

    def text_logits(*given):
        logits = call(*given).clone()
        logits[..., layout.end_text] = logits.logsumexp(-1) + np.log(0.25)
        return logits

    monkeypatch.setattr(model, "text_logits", text_logits)
    return model


def with_answer(row: Row, layout: Layout, words, codes) -> Row:
    """The row of a request and its answer, as it would stand in a training batch."""
    ids = [layout.start_text, *words, layout.end_text, layout.start_image, *codes, layout.end_image]
    kind = [Kind.PROMPT, *[Kind.TEXT] * (len(words) + 1), Kind.PROMPT, *[Kind.IMAGE] * len(codes), Kind.PROMPT]
    return replace(row, ids=np.append(row.ids, ids), kind=np.append(row.kind, kind))


@torch.no_grad()
def forced(model, layout: Layout, rows) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits of words and of codes, row by row, with the whole sequence read at once as in training."""
    batch = collate(rows, layout.pad_id)
    hidden = model.read(batch, model.prefer(batch))
    written = zip(hidden, batch.text_loss, model.alike(batch), strict=True)
    words = [model.text_logits(row[at], alike.expand(int(at.sum()), -1)) for row, at, alike in written]
    codes = [model.model.generation_head(row[at]) for row, at in zip(hidden, batch.image_loss, strict=True)]
    return words, codes


# equal to reading the whole sequence at once


@pytest.mark.parametrize("histories", [(3,), (0,), (3, 0, 1)])
def test_step_by_step_decoding_is_teacher_forcing(model, layout: Layout, ask, heard: Heard, histories) -> None:
    """With control and cache, for histories of different lengths in one batch: the path of training and no other."""
    rows = [ask(num, seed) for seed, num in enumerate(histories)]
    made = decode(model, layout, rows, range(len(rows)))
    answered = [with_answer(*x) for x in zip(rows, [layout] * len(rows), made.words, made.codes.tolist(), strict=True)]
    words, codes = forced(model, layout, answered)
    for r in range(len(rows)):
        stepwise = torch.stack([logits[r] for logits in heard.words[: len(words[r])]])
        torch.testing.assert_close(stepwise, words[r], atol=1e-5, rtol=0)
        stepwise = torch.stack([logits[r] for logits in heard.codes])
        torch.testing.assert_close(stepwise, codes[r], atol=1e-5, rtol=0)


def test_rows_that_finish_at_different_times_are_still_teacher_forcing(terse, layout: Layout, ask, monkeypatch) -> None:
    codes: list[torch.Tensor] = []
    call = terse.image_logits
    monkeypatch.setattr(terse, "image_logits", lambda hidden: codes.append(call(hidden)) or codes[-1])
    rows = [ask(num, seed) for seed, num in enumerate((3, 0, 1, 2))]
    made = decode(terse, layout, rows, range(4))
    assert len({len(words) for words in made.words}) > 1
    answered = [with_answer(*x) for x in zip(rows, [layout] * 4, made.words, made.codes.tolist(), strict=True)]
    for r, expected in enumerate(forced(terse, layout, answered)[1]):
        torch.testing.assert_close(torch.stack([step[r] for step in codes]), expected, atol=1e-5, rtol=0)


def test_both_branches_of_guidance_are_teacher_forcing(model, layout: Layout, ask, heard: Heard) -> None:
    """u + guidance (c - u), where u has read the same answer without the history."""
    rows = [ask(3), replace(ask(0), cutout=ask(3).cutout)]
    made = decode(model, layout, rows, [5], GUIDED)
    assert len(heard.codes[0]) == 2
    answered = [with_answer(row, layout, made.words[0], made.codes[0].tolist()) for row in rows]
    words, codes = forced(model, layout, answered)
    for branch in range(2):
        torch.testing.assert_close(
            torch.stack([x[branch] for x in heard.words[: len(words[0])]]), words[branch], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(torch.stack([x[branch] for x in heard.codes]), codes[branch], atol=1e-5, rtol=0)


# guidance


def test_guidance_goes_from_without_towards_with() -> None:
    with_all, without = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    both = torch.cat([with_all, without])
    torch.testing.assert_close(guide(both, 2, 1.0), with_all)
    torch.testing.assert_close(guide(both, 2, 3.0), torch.tensor([[3.0, -2.0]]))
    assert guide(with_all, 1, 3.0) is with_all


def test_guidance_of_one_is_no_guidance(model, layout: Layout, ask) -> None:
    plain = decode(model, layout, [ask(3)], [4])
    guided = decode(model, layout, [ask(3), ask(0)], [4], replace(PLAIN, guidance=1.0))
    assert guided.words == plain.words
    assert torch.equal(guided.codes, plain.codes)


def test_guidance_changes_the_ad(model, layout: Layout, ask) -> None:
    plain = decode(model, layout, [ask(3)], [4])
    guided = decode(model, layout, [ask(3), ask(0)], [4], GUIDED)
    assert guided.words != plain.words or not torch.equal(guided.codes, plain.codes)


@pytest.mark.parametrize(("leave_out", "same"), [("history", True), ("product", False), ("both", False)])
def test_the_branch_without_product_has_no_control(model, layout: Layout, ask, heard: Heard, leave_out, same) -> None:
    """The same request in both branches: they differ exactly where the product is left out."""
    decode(model, layout, [ask(2), ask(2)], [0], replace(GUIDED, leave_out=leave_out))
    equal = [torch.allclose(x[0], x[1], atol=1e-5) for x in heard.codes]
    assert equal[0] is same
    assert all(torch.allclose(x[0], x[1], atol=1e-5) for x in heard.words)


# chance


def test_the_same_seed_gives_the_same_ad(model, layout: Layout, ask) -> None:
    once, again = (decode(model, layout, [ask(2)], [11]) for _ in range(2))
    assert once.words == again.words
    assert torch.equal(once.codes, again.codes)


def test_another_seed_gives_another_ad(model, layout: Layout, ask) -> None:
    ads = [decode(model, layout, [ask(2)], [seed]) for seed in range(4)]
    assert len({ad.words for ad in ads}) == 4
    assert len({tuple(ad.codes[0].tolist()) for ad in ads}) == 4


def test_equal_requests_of_one_batch_differ_by_their_seeds_alone(model, layout: Layout, ask) -> None:
    made = decode(model, layout, [ask(2)] * 3, [1, 2, 1])
    assert made.words[0] == made.words[2] != made.words[1]
    assert torch.equal(made.codes[0], made.codes[2])


def test_a_requests_ad_does_not_depend_on_who_else_is_in_the_batch(model, layout: Layout, ask) -> None:
    rows = [ask(num, seed) for seed, num in enumerate((3, 0, 1))]
    together = decode(model, layout, rows, [7, 8, 9])
    for r, seed in enumerate((7, 8, 9)):
        alone = decode(model, layout, [rows[r]], [seed])
        assert alone.words[0] == together.words[r]
        assert torch.equal(alone.codes[0], together.codes[r])


def test_an_ad_does_not_depend_on_how_long_the_others_write(terse, layout: Layout, ask) -> None:
    rows = [ask(num, seed) for seed, num in enumerate((3, 0, 1, 2))]
    together = decode(terse, layout, rows, range(4))
    assert len({len(words) for words in together.words}) > 1
    for r in range(4):
        alone = decode(terse, layout, [rows[r]], [r])
        assert alone.words[0] == together.words[r]
        assert torch.equal(alone.codes[0], together.codes[r])


def test_decoding_leaves_the_global_generators_alone(model, layout: Layout, ask) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    decode(model, layout, [ask(2)], [0])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


# sampling


def frequencies(logits: list[float], temperature: float, top_k: int) -> torch.Tensor:
    draws = 4000
    rows = torch.tensor(logits).repeat(draws, 1)
    noise = draw([torch.Generator().manual_seed(seed) for seed in range(draws)], len(logits))
    tokens = sample(rows, temperature, top_k, noise)
    return torch.bincount(tokens, minlength=len(logits)) / draws


def test_tokens_are_drawn_with_the_softmaxs_chances() -> None:
    p = torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(frequencies(p.log().tolist(), 1.0, 0), p, atol=0.03, rtol=0)


def test_the_temperature_flattens_the_chances() -> None:
    expected = (torch.tensor([2.0, 0.0, -2.0]) / 2).softmax(0)
    torch.testing.assert_close(frequencies([2.0, 0.0, -2.0], 2.0, 0), expected, atol=0.03, rtol=0)


def test_only_the_likeliest_are_drawn() -> None:
    drawn = frequencies([1.0, 3.0, 2.0, 0.0], 1.0, 2)
    assert drawn[0] == drawn[3] == 0
    assert drawn[1] > drawn[2] > 0


def test_temperature_zero_is_greedy() -> None:
    assert frequencies([1.0, 3.0, 2.0], 0.0, 0)[1] == 1


# lengths


@pytest.mark.parametrize("most", [1, 3])
def test_no_text_is_longer_than_asked_for(model, layout: Layout, ask, most: int) -> None:
    made = decode(model, layout, [ask(2), ask(0)], [0, 1], replace(PLAIN, max_words=most))
    assert [len(words) for words in made.words] == [most, most]  # this model never ends by itself
    assert made.codes.shape == (2, 16)


def test_the_text_ends_where_the_model_ends_it(terse, layout: Layout, ask) -> None:
    made = decode(terse, layout, [ask(2)] * 12, range(12), replace(PLAIN, max_words=40))
    assert len({len(words) for words in made.words}) > 4
    assert max(len(words) for words in made.words) < 40
    assert not any(layout.end_text in words for words in made.words)


def test_every_word_and_every_row_of_the_picture_is_told(model, layout: Layout, ask) -> None:
    decoder = Decoder(model, layout, PLAIN, [0], [("mug",)])
    told = list(decoder.run(collate([ask(1)], layout.pad_id)))
    assert [(len(p.words[0]), p.codes.shape[1]) for p in told[:-1] if p.codes.shape[1] == 0][:8] == [
        (i, 0) for i in range(1, 9)
    ]
    assert [p.codes.shape[1] for p in told[-5:]] == [4, 8, 12, 16, 16]
    assert [p.done for p in told] == [False] * (len(told) - 1) + [True]
    for before, after in pairwise(told):  # what has been told stays true
        assert after.words[0][: len(before.words[0])] == before.words[0]
        assert torch.equal(after.codes[:, : before.codes.shape[1]], before.codes)


@pytest.mark.parametrize(("modality", "words", "codes"), [("text", 8, 0), ("image", 0, 16)])
def test_a_model_of_one_modality_makes_that_one_alone(
    model, tokenizer, tiny_config, ask, modality, words, codes
) -> None:
    config = replace(tiny_config, data=replace(tiny_config.data, modality=modality))
    made = decode(model, Layout(tokenizer, config), [ask(2)], [0])
    assert len(made.words[0]) == words
    assert made.codes.shape == (1, codes)
