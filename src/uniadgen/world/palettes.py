"""The ten palettes of the studio, far from one another in colour, and the materials that sets are built from."""

from dataclasses import dataclass
from typing import Final

from uniadgen.world.solids import Colour, Material


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Screen colours (sRGB, 0..1) of a set."""

    wall: Colour
    floor: Colour
    stage: Colour
    accent: Colour
    accent2: Colour
    metal: Colour = (0.90, 0.72, 0.42)


PALETTES: Final[dict[str, Palette]] = {
    "blush": Palette(
        wall=(0.95, 0.66, 0.70), floor=(0.97, 0.83, 0.84), stage=(0.91, 0.60, 0.64), accent=(0.80, 0.36, 0.44),
        accent2=(0.98, 0.93, 0.90),
    ),
    "sage": Palette(
        wall=(0.55, 0.74, 0.56), floor=(0.79, 0.88, 0.75), stage=(0.38, 0.60, 0.42), accent=(0.25, 0.42, 0.28),
        accent2=(0.96, 0.93, 0.82),
    ),
    "sky": Palette(
        wall=(0.52, 0.76, 0.96), floor=(0.86, 0.93, 0.98), stage=(0.32, 0.58, 0.88), accent=(0.16, 0.38, 0.74),
        accent2=(0.99, 0.97, 0.93),
    ),
    "sand": Palette(
        wall=(0.83, 0.65, 0.44), floor=(0.90, 0.78, 0.60), stage=(0.66, 0.50, 0.34), accent=(0.46, 0.32, 0.21),
        accent2=(0.96, 0.90, 0.80),
    ),
    "charcoal": Palette(
        wall=(0.22, 0.22, 0.25), floor=(0.30, 0.30, 0.33), stage=(0.14, 0.14, 0.16), accent=(0.86, 0.66, 0.30),
        accent2=(0.48, 0.48, 0.52),
    ),
    "lemon": Palette(
        wall=(0.99, 0.84, 0.26), floor=(0.99, 0.93, 0.62), stage=(0.98, 0.72, 0.16), accent=(0.93, 0.50, 0.12),
        accent2=(1.00, 0.98, 0.90),
    ),
    "terracotta": Palette(
        wall=(0.78, 0.38, 0.26), floor=(0.86, 0.57, 0.43), stage=(0.62, 0.27, 0.19), accent=(0.42, 0.17, 0.13),
        accent2=(0.97, 0.86, 0.74),
    ),
    "lavender": Palette(
        wall=(0.75, 0.57, 0.90), floor=(0.92, 0.82, 0.98), stage=(0.54, 0.43, 0.82), accent=(0.36, 0.26, 0.62),
        accent2=(0.99, 0.90, 0.96),
    ),
    "teal": Palette(
        wall=(0.10, 0.46, 0.48), floor=(0.40, 0.70, 0.68), stage=(0.06, 0.34, 0.37), accent=(0.96, 0.56, 0.42),
        accent2=(0.90, 0.95, 0.90),
    ),
    "ivory": Palette(
        wall=(0.96, 0.945, 0.91), floor=(0.98, 0.97, 0.94), stage=(0.88, 0.85, 0.78), accent=(0.80, 0.64, 0.36),
        accent2=(1.00, 0.99, 0.97),
    ),
}  # fmt: skip


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """The colour `share` of the way from one to the other."""
    a, b, c = ((1 - share) * x + share * y for x, y in zip(one, other, strict=True))
    return a, b, c


def matt(colour: Colour, gloss: float = 0.12) -> Material:
    """A plain painted surface."""
    return Material(colour=colour, gloss=gloss)


def metal(palette: Palette, gloss: float = 0.75) -> Material:
    """The palette's metal."""
    return Material(colour=palette.metal, metal=1.0, gloss=gloss)


def wood(colour: Colour, scale: float = 0.07, brown: float = 0.45) -> Material:
    """Wood stained with a colour; `brown` is how much of the wood's own shows through."""
    return Material(
        colour=mixed(colour, (0.80, 0.60, 0.40), brown), accent=mixed(colour, (0.50, 0.31, 0.18), 0.15 + brown),
        pattern="wood", scale=scale, gloss=0.25,
    )  # fmt: skip


def planks(colour: Colour) -> Material:
    """A floor of boards with a tint of the colour."""
    base = mixed(colour, (0.80, 0.60, 0.40), 0.25)
    return Material(colour=base, accent=mixed(base, (0.42, 0.26, 0.15), 0.42), pattern="planks", scale=0.3, gloss=0.3)


def marble(colour: Colour, vein: Colour, scale: float = 0.55) -> Material:
    """Polished stone with veins."""
    return Material(colour=colour, accent=mixed(colour, vein, 0.5), pattern="marble", scale=scale, gloss=0.5)
