"""From values to lines: means with intervals by shopper, and paired tests against one reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from uniadgen.evaluate.harness import Measured
from uniadgen.evaluate.measures import Measure, Values, measure_of
from uniadgen.metrics.statistics import Interval, bootstrap, holm, mcnemar, mean_of, paired_bootstrap, wilson


@dataclass(frozen=True)
class Difference:
    """By how much a generator is above the reference on the requests that both have a value of."""

    value: float
    low: float
    high: float
    test: str  # mcnemar, or paired bootstrap
    p: float
    adjusted: float  # by Holm, over the generators compared on this measure
    n: int


@dataclass(frozen=True)
class Line:
    """One measure of one generator: the mean of `n` values of `shoppers` with its 95 % interval, and what was aimed at.

    `interval` says how it was found: bootstrap (BCa, whole shoppers resampled), wilson, or none, for the largest value.
    """

    key: str
    measure: str
    generator: str
    value: float
    low: float
    high: float
    n: int
    shoppers: int
    interval: str
    target: str = ""
    met: bool | None = None
    difference: Difference | None = None


def summarise(measured: Measured, roles: Mapping[str, str], reference: str, seed: int = 0) -> list[Line]:
    """The lines of the table, measure by measure, in each the generators of these names (and roles) in their order.

    A family of tests (Holm) is all generators that are compared with `reference`, one of them, on one measure.
    """
    lines = []
    for key in measured.measures:
        made = [name for name in roles if _defined(measured.values[name].get(key))]
        found = [_line(measured, name, roles[name], key, seed) for name in made]
        if reference in made:
            found = _compared(measured, found, key, reference, seed)
        lines += found
    return lines


def _defined(values: Values | None) -> bool:
    return values is not None and not np.isnan(values).all()


def _generator(seed: int, *names: str) -> np.random.Generator:
    """Its own for each line: who else is compared does not matter."""
    return np.random.default_rng([seed, *(crc32(name.encode()) for name in names)])


def _line(measured: Measured, name: str, role: str, key: str, seed: int) -> Line:
    measure, values = measure_of(key), measured.values[name][key]
    here = ~np.isnan(values)
    shoppers = [row.shopper for row, counts in zip(measured.rows, here, strict=True) if counts]
    interval, how = interval_of(measure, values[here], shoppers, _generator(seed, key, name))
    aim = measure.aims.get(role)
    target = "" if aim is None else f"at {'least' if aim.at_least else 'most'} {_bound(measure, aim.bound)}"
    met = None if aim is None else aim.met(interval.value)
    value, low, high = map(float, interval)
    return Line(
        key=key,
        measure=measure.name,
        generator=name,
        value=value,
        low=low,
        high=high,
        n=len(shoppers),
        shoppers=len(set(shoppers)),
        interval=how,
        target=target,
        met=met,
    )


def _bound(measure: Measure, bound: float) -> str:
    return f"{bound:.0%}" if "%" in measure.form else f"{bound:g}"


def interval_of(
    measure: Measure, values: Values, shoppers: Sequence[str], rng: np.random.Generator
) -> tuple[Interval, str]:
    """The mean with its interval, and how that was found.

    Where each shopper answers yes or no once, Wilson's is as good as the bootstrap and also right where all answer
    alike, of which a bootstrap would claim to be certain; of several answers of a shopper it counts one then.
    """
    if measure.largest:
        return Interval(*[float(values.max())] * 3), "none"
    alike = len(set(values.tolist())) == 1
    if measure.yes_no and (alike or len(set(shoppers)) == len(shoppers)):
        return wilson(values.mean(), len(set(shoppers))), "wilson"
    return bootstrap(mean_of(values), shoppers, rng), "bootstrap"


def _compared(measured: Measured, lines: Sequence[Line], key: str, reference: str, seed: int) -> list[Line]:
    """The lines with their differences to the reference's."""
    base, differences = measured.values[reference][key], {}
    for name in (line.generator for line in lines if line.generator != reference):
        rng = _generator(seed, key, name, reference)
        if found := _difference(measured, base, measured.values[name][key], measure_of(key), rng):
            differences[name] = found
    adjusted = holm([difference.p for difference in differences.values()])
    family = {
        name: replace(difference, adjusted=p)
        for (name, difference), p in zip(differences.items(), adjusted, strict=True)
    }
    return [replace(line, difference=family.get(line.generator)) for line in lines]


def _difference(
    measured: Measured, base: Values, values: Values, measure: Measure, rng: np.random.Generator
) -> Difference | None:
    """None where not two shoppers have both values, or the largest counts, which no test compares."""
    both = ~np.isnan(base) & ~np.isnan(values)
    shoppers = [row.shopper for row, counts in zip(measured.rows, both, strict=True) if counts]
    if measure.largest or len(set(shoppers)) < 2:
        return None
    first, second = base[both], values[both]
    interval, p = paired_bootstrap(first, second, shoppers, rng)
    test = "paired bootstrap"
    if measure.yes_no and len(set(shoppers)) == len(shoppers):  # exact, but for one answer of each shopper
        test, p = "mcnemar", mcnemar(first.astype(bool).tolist(), second.astype(bool).tolist()).p
    return Difference(*interval, test, p, p, len(shoppers))
