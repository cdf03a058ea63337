"""Our own model with something left out: without history, with its pictures or titles alone, or decoding unbound.

One modality alone stands in for systems that know one only, such as Pigeon; it is our model still, and named so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from uniadgen.config import Config, replace_in
from uniadgen.data.prompt import Layout, Shown
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Ad, Click, Example


class NoHistory:
    """Nothing of the shopper is known."""

    def __init__(self, generator: AdGenerator) -> None:
        self.generator = generator

    def generate_batch(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Ad]:
        """As the model makes them for strangers."""
        return self.generator.generate_batch([replace(example, clicks=()) for example in examples], seeds)


class ImageOnly(AdGenerator):
    """Of the clicks that product similarity sampling draws, the model sees the pictures alone."""

    def encode_clicks(self, clicks: Sequence[Click]) -> list[Shown]:
        """No titles."""
        return [Shown("", shown.codes) for shown in super().encode_clicks(clicks)]


class TextOnly(AdGenerator):
    """Of the clicks that product similarity sampling draws, the model sees the titles alone."""

    def encode_clicks(self, clicks: Sequence[Click]) -> list[Shown]:
        """No pictures, and none is coded."""
        return [Shown(click.text, np.zeros(0, np.int64)) for click in clicks]


def no_history(generator: AdGenerator) -> NoHistory:
    """The model, which sees no history."""
    return NoHistory(generator)


def image_only(generator: AdGenerator) -> AdGenerator:
    """The model, which sees only pictures of the history."""
    return _alike(ImageOnly, generator, generator.layout, generator.config)


def text_only(generator: AdGenerator) -> AdGenerator:
    """The model, which sees only titles of the history."""
    return _alike(TextOnly, generator, generator.layout, generator.config)


def unbound(generator: AdGenerator) -> AdGenerator:
    """The model, which writes texts only, held to the selling points by nothing but what it has learnt."""
    config = replace_in(generator.config, data__modality="text", generate__connecting_words=())
    return _alike(AdGenerator, generator, Layout(generator.layout.tokenizer, config), config)


def _alike(kind: type[AdGenerator], generator: AdGenerator, layout: Layout, config: Config) -> AdGenerator:
    """Another generator on the same model, and on the same engine: joined weights are held once."""
    other = kind(generator.model, layout, config)
    other.engine = generator.engine
    return other
