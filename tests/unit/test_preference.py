"""Preference extraction (Eq. 7, 8): what is kept, what is never kept, and how gradients pass a hard choice."""

import pytest
import torch

from uniadgen.data.batch import collate
from uniadgen.model.configuration import architecture
from uniadgen.model.preference import Preference, PreferenceControl, RelevanceExtractor, Selection

WIDTH = 64


@pytest.fixture
def config(tiny_config, layout):
    return architecture(tiny_config, layout.pad_id)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture
def extractor(config) -> RelevanceExtractor:
    return randomised(RelevanceExtractor(config, max_tokens=30))


@pytest.fixture
def preference(config) -> Preference:
    return randomised(Preference(config))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first(*lengths: int, size: int) -> torch.Tensor:
    """(1, N, size): the first so many tokens of every click are real."""
    return (torch.arange(size) < torch.tensor(lengths)[:, None])[None]


def kept(selection: Selection) -> torch.Tensor:
    return selection.mask.detach() > 0.5


# the relevance extractor


@pytest.mark.parametrize(("lengths", "expected"), [((5, 5), 4), ((3, 4), 2), ((1, 1), 1), ((1, 0), 1), ((5, 1), 2)])
def test_forty_percent_of_all_tokens_are_kept_but_at_least_one(extractor, lengths, expected) -> None:
    selection = extractor(normal(1, 2, 5, WIDTH), first(*lengths, size=5), None)
    assert kept(selection).sum() == expected


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_the_keep_rate_is_the_configs(config, rate: float) -> None:
    config.keep_rate = rate
    extractor = randomised(RelevanceExtractor(config, max_tokens=30))
    selection = extractor(normal(1, 2, 10, WIDTH), torch.ones(1, 2, 10, dtype=torch.bool), None)
    assert kept(selection).sum() == 20 * rate


def test_the_most_relevant_tokens_are_kept_over_all_clicks_together(extractor) -> None:
    selection = extractor(normal(3, 4, 5, WIDTH), torch.ones(3, 4, 5, dtype=torch.bool), None)
    best = selection.scores.topk(8).indices
    assert torch.equal(kept(selection), torch.zeros(3, 20).scatter(1, best, 1.0) > 0)


def test_scores_are_cosines(extractor) -> None:
    x, valid = normal(2, 2, 5, WIDTH), torch.ones(2, 2, 5, dtype=torch.bool)
    scores = extractor(x, valid, None).scores
    assert scores.abs().max() <= 1
    # Only directions count for a cosine, but the extractor itself sees the lengths of all tokens.
    hidden = (x + extractor.position[:5]).flatten(1, 2)
    for block in extractor.blocks:
        hidden = block(hidden, valid.flatten(1, 2))
    tokens = x.flatten(1, 2)
    expected = (tokens * hidden).sum(-1) / (tokens.norm(dim=-1) * hidden.norm(dim=-1))
    torch.testing.assert_close(scores, expected)


def test_padding_is_never_selected_whatever_the_noise(extractor) -> None:
    extractor.train()
    x, valid = normal(2, 2, 5, WIDTH), torch.cat([first(2, 0, size=5), first(5, 1, size=5)])
    for seed in range(100):
        selection = extractor(x, valid, torch.Generator().manual_seed(seed))
        assert not (kept(selection) & ~valid.flatten(1)).any()
        assert (selection.tokens[~valid.flatten(1)] == 0).all()


def test_what_is_handed_on_is_mask_times_input(extractor) -> None:
    x, valid = normal(2, 2, 5, WIDTH), torch.ones(2, 2, 5, dtype=torch.bool)
    selection = extractor(x, valid, None)
    expected = torch.where(kept(selection)[..., None], x.flatten(1, 2), 0.0)
    torch.testing.assert_close(selection.tokens, expected)


def test_the_gradient_is_that_of_the_softmax(extractor) -> None:
    """Straight through: d mask / d scores is the Jacobian of the softmax over the real tokens."""
    valid = first(4, 2, size=5)
    selection = extractor(normal(1, 2, 5, WIDTH), valid, None)
    selection.scores.retain_grad()
    weight = normal(1, 10, seed=1)
    (selection.mask * weight).sum().backward()
    scores = selection.scores.detach().masked_fill(~valid.flatten(1), -torch.inf).requires_grad_()
    (scores.softmax(-1) * weight).sum().backward()
    torch.testing.assert_close(selection.scores.grad, scores.grad)
    assert scores.grad.abs().max() > 1e-3


def test_the_extractor_learns_although_its_choice_is_hard(extractor) -> None:
    selection = extractor(normal(2, 2, 5, WIDTH), torch.ones(2, 2, 5, dtype=torch.bool), None)
    (selection.tokens * normal(2, 10, WIDTH, seed=1)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in extractor.parameters())


def test_noise_is_drawn_in_training_from_the_generator_given(extractor) -> None:
    x, valid = normal(1, 4, 5, WIDTH), torch.ones(1, 4, 5, dtype=torch.bool)
    extractor.gumbel_scale = 1.0
    extractor.train()
    choices = [kept(extractor(x, valid, torch.Generator().manual_seed(seed))) for seed in (0, 0, *range(1, 20))]
    assert torch.equal(choices[0], choices[1])
    assert len({tuple(choice.flatten().tolist()) for choice in choices}) > 10


def test_there_is_no_noise_outside_training(extractor) -> None:
    x, valid = normal(1, 4, 5, WIDTH), torch.ones(1, 4, 5, dtype=torch.bool)
    extractor.gumbel_scale = 1.0
    choices = {tuple(kept(extractor(x, valid, torch.Generator().manual_seed(s))).flatten().tolist()) for s in range(9)}
    assert len(choices) == 1


def test_noise_outside_training_can_be_asked_for(config) -> None:
    config.gumbel_at_inference, config.gumbel_scale = True, 1.0
    extractor = randomised(RelevanceExtractor(config, max_tokens=30))
    x, valid = normal(1, 4, 5, WIDTH), torch.ones(1, 4, 5, dtype=torch.bool)
    choices = {tuple(kept(extractor(x, valid, torch.Generator().manual_seed(s))).flatten().tolist()) for s in range(9)}
    assert len(choices) > 1


def test_relevant_tokens_are_chosen_more_often_than_others(extractor) -> None:
    """Noise of the recipe's size explores; it does not drown the scores."""
    x, valid = normal(1, 4, 5, WIDTH), torch.ones(1, 4, 5, dtype=torch.bool)
    clear = kept(extractor(x, valid, None))
    extractor.train()
    noisy = [kept(extractor(x, valid, torch.Generator().manual_seed(seed))) for seed in range(100)]
    chosen = torch.stack(noisy).float().mean(0)
    assert chosen[clear].mean() > chosen[~clear].mean() + 0.3


# the fusion


def fuse(preference: Preference, num_clicks: int = 2, num_words: int = 5, pad_clicks: int = 0, pad_words: int = 0):
    """The same two clicks, and as much padding as wanted (filled with noise that must not matter)."""
    text, image = normal(2, 2, 5, WIDTH), normal(2, 2, 4, WIDTH, seed=1)
    words = torch.stack([first(5, 3, size=5)[0], first(2, 0, size=5)[0]])
    clicked = torch.tensor([[True, True], [True, False]])
    noise = lambda *shape: 9 * normal(*shape, seed=7)  # noqa: E731
    text = torch.cat([text, noise(2, 2, pad_words, WIDTH)], 2)
    words = torch.nn.functional.pad(words, (0, pad_words, 0, pad_clicks))
    text = torch.cat([text, noise(2, pad_clicks, 5 + pad_words, WIDTH)], 1)
    image = torch.cat([image, noise(2, pad_clicks, 4, WIDTH)], 1)
    clicked = torch.nn.functional.pad(clicked, (0, pad_clicks))
    fused = preference(text, words, image, clicked)
    return fused.text[words], fused.image[clicked]


def test_padding_of_clicks_and_words_changes_nothing(preference: Preference) -> None:
    text, image = fuse(preference)
    for padding in ({"pad_clicks": 3}, {"pad_words": 4}, {"pad_clicks": 2, "pad_words": 7}):
        padded_text, padded_image = fuse(preference, **padding)
        torch.testing.assert_close(padded_text, text, atol=1e-5, rtol=0)
        torch.testing.assert_close(padded_image, image, atol=1e-5, rtol=0)


def test_text_and_pictures_inform_each_other(preference: Preference) -> None:
    text, image = normal(1, 2, 5, WIDTH), normal(1, 2, 4, WIDTH, seed=1)
    words, clicked = torch.ones(1, 2, 5, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    before = preference(text, words, image, clicked)
    after = preference(text, words, normal(1, 2, 4, WIDTH, seed=2), clicked)
    assert (before.text - after.text).abs().max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_rows_without_clicks_are_finite_and_so_are_their_gradients(preference: Preference, training: bool) -> None:
    preference.train(training)
    text, image = normal(2, 2, 5, WIDTH).requires_grad_(), normal(2, 2, 4, WIDTH, seed=1).requires_grad_()
    words = torch.stack([first(5, 3, size=5)[0], first(0, 0, size=5)[0]])
    clicked = torch.tensor([[True, True], [False, False]])
    fused = preference(text, words, image, clicked, torch.Generator().manual_seed(0))
    (fused.text[words].sum() + fused.image[clicked].sum()).backward()
    assert not kept(fused.text_selection)[1].any()
    assert not kept(fused.image_selection)[1].any()
    for tensor in (fused.text, fused.image, text.grad, image.grad, *(p.grad for p in preference.parameters())):
        assert tensor.isfinite().all()
    assert (text.grad[1] == 0).all()
    assert (image.grad[1] == 0).all()


def test_preference_tokens_enter_the_sequence_in_the_places_of_the_history(model, make_row, layout) -> None:
    batch = collate([make_row(0, 3), make_row(1, 0), make_row(2, 1)], layout.pad_id)
    fused = model.prefer(batch)
    embeds = model.embed(batch, fused)
    for b in range(3):
        at = batch.kind[b] == 2
        torch.testing.assert_close(embeds[b, at], fused.text[b][batch.click_words[b]])
        at = batch.kind[b] == 3
        torch.testing.assert_close(embeds[b, at], fused.image[b][batch.clicked[b]].flatten(0, 1))


def test_at_first_the_history_stands_there_as_words_and_codes_do(fresh_model, make_row, layout) -> None:
    """What the extractors drop is zero; what they keep is all but untouched, so that a decoder knows it at once."""
    batch = collate([make_row(0, 3)], layout.pad_id)
    fused = fresh_model.prefer(batch)
    codes = fresh_model.prepare_embeddings_for_image_generation(batch.click_codes)
    chosen = kept(fused.image_selection).view(codes.shape[:3])
    change = (fused.image - codes * chosen[..., None]).std()
    assert 0 < change < 0.1 * fresh_model.get_input_embeddings().weight.std()


# the history as a control


@pytest.fixture
def control() -> PreferenceControl:
    return randomised(PreferenceControl(WIDTH))


def test_a_control_looks_at_the_same_place_of_all_clicks(control) -> None:
    image, clicked = normal(1, 3, 4, WIDTH), torch.tensor([[True, True, False]])
    before = control(image, clicked, 16).view(4, 4, WIDTH)
    image[0, 1, 1] += normal(WIDTH, seed=3)  # upper right of the second click
    change = (control(image, clicked, 16).view(4, 4, WIDTH) - before).abs().amax(-1)
    assert (change[:2, 2:] > 1e-3).all()
    change[:2, 2:] = 0
    assert (change == 0).all()


def test_padding_of_clicks_does_not_enter_a_control(control) -> None:
    image, clicked = normal(1, 3, 4, WIDTH), torch.tensor([[True, True, False]])
    torch.testing.assert_close(control(image, clicked, 16), control(image[:, :2], clicked[:, :2], 16))


def test_without_a_history_there_is_no_control(control) -> None:
    image, clicked = normal(2, 2, 4, WIDTH), torch.tensor([[True, True], [False, False]])
    made = control(image, clicked, 16)
    assert (made[1] == 0).all()
    assert (made[0] != 0).any()


def test_a_history_controls_the_picture_of_its_row_alone(model, make_row, layout) -> None:
    batch = collate([make_row(0, 3), make_row(1, 0)], layout.pad_id)
    product = model.foreground(batch.cutout)
    both = model.add_preference(product, batch, model.prefer(batch))
    assert (both[0] != product[0]).any()
    assert torch.equal(both[1], product[1])
