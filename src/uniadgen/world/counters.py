"""Randomness from integers: every draw of AdWorld is a function of (seed, what, ids), not of call order."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


class What(IntEnum):
    """What is drawn; a new use gets a new number, old ones keep theirs so that a shop stays the same."""

    VARIANT = 1
    DESCRIPTION = 2
    SELLING_POINTS = 3
    TEXT = 4
    SCENE = 5
    STYLES = 6
    LANGUAGE = 7
    TASTE = 8
    DEPARTMENTS = 9
    VISIT = 10
    LOG = 11
    DATASET_ID = 12  # keys of ids that are numbers, in any dataset that is built
    DATASET_TARGET = 13
    DATASET_SPLIT = 14
    DATASET_CONTENT = 15


def bits(seed: int, what: What, *counters: int | NDArray[np.int64]) -> Bits:
    """64 random bits for every combination of the counters, which broadcast; at least one-dimensional.

    Each counter is stirred in by one round of splitmix64 (Steele, Lea and Flood 2014).
    """
    state = np.full(1, seed, dtype=np.uint64)
    for counter in (0, int(what), *counters):
        state = _stirred(state ^ np.asarray(counter).astype(np.uint64))
    return state


def _stirred(state: Bits) -> Bits:
    state = state + _STEP
    state ^= state >> np.uint64(30)
    state *= _FIRST
    state ^= state >> np.uint64(27)
    state *= _SECOND
    state ^= state >> np.uint64(31)
    return state


def below(draws: Bits, limit: int | Bits) -> NDArray[np.int64]:
    """Whole numbers in 0..limit-1; the unevenness is under limit / 2**64."""
    return (draws % np.asarray(limit, dtype=np.uint64)).astype(np.int64)


def unit(draws: Bits) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 bits."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(seed: int, what: What, *ids: int) -> np.random.Generator:
    """A fresh generator for one thing, for instance one product's selling points."""
    return np.random.default_rng((seed, int(what), *ids))
