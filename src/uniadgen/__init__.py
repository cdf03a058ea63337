"""Personalised advertising text and pictures from one autoregressive model (Uni-AdGen)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uniadgen.config import Config
    from uniadgen.pipeline import AdGenerator, Update
    from uniadgen.recipes import RECIPES, recipe
    from uniadgen.records import Ad, Click, Example, Product

__all__ = ["RECIPES", "Ad", "AdGenerator", "Click", "Config", "Example", "Product", "Update", "recipe"]

# Loaded when first asked for: torch takes seconds to import, and `uniadgen --help` should not.
_HOMES = {
    "config": ("Config",),
    "pipeline": ("AdGenerator", "Update"),
    "recipes": ("RECIPES", "recipe"),
    "records": ("Ad", "Click", "Example", "Product"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            try:
                return getattr(import_module(f"uniadgen.{module}"), name)
            except AttributeError as error:  # `from uniadgen import` would say that there is no such name
                raise ImportError(f"uniadgen.{module} could not be imported: {error}") from error
    raise AttributeError(f"module 'uniadgen' has no attribute {name!r}")
