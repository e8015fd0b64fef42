"""What is counted, and how Prometheus reads it.

prometheus_client's own counters take a lock and walk through their buckets: the dozen that a request touches took
30 us. Here the event loop alone counts, so a sum and a bisection do. Where several workers serve, each counts for
itself, and whichever is asked answers for all.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_double
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from service.tallies import Numbers, Tallies


class Number(c_double):
    """A counter, which only grows, or a gauge: its ``value``."""


class Distribution:
    """How many observations lie between two bounds each, and behind these counts their sum."""

    __slots__ = ("bounds", "numbers")

    def __init__(self, bounds: Sequence[float], numbers: Numbers) -> None:
        """bounds: ascending; without any, count and sum alone. numbers: two more than bounds."""
        self.bounds = bounds
        self.numbers = numbers

    def observe(self, value: float) -> None:
        """One more; a value equal to a bound lies below it."""
        numbers = self.numbers
        numbers[bisect_left(self.bounds, value)] += 1
        numbers[-1] += value


Child = TypeVar("Child", Number, Distribution)
Merge = Callable[[Iterable[float]], float]


class Family(Generic[Child]):
    """Children of one name, told apart by the values of their labels."""

    def __init__(self, name: str, make: Callable[[tuple[str, ...]], Child]) -> None:
        """make: a child, of its name and the values of its labels."""
        self._name = name
        self._children: dict[tuple[str, ...], Child] = {}
        self._make: Callable[[tuple[str, ...]], Child] = make

    def labels(self, *values: object) -> Child:
        """The child of these values; made when it is asked for first."""
        key = (self._name, *map(str, values))
        if key not in self._children:
            self._children[key] = self._make(key)
        return self._children[key]


@dataclass(frozen=True)
class _Exposition:
    """How a family is merged over the workers and shown."""

    metric: Callable[[], Metric]  # without samples
    add: Callable[[Any, tuple[str, ...], list[float]], None]  # a sample, to such a metric
    merge: Merge = sum
    of_serving: bool = False  # leaves out workers that died or still load


class Counters:
    """Every family, in the form that a Prometheus registry collects."""

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._expositions: dict[str, _Exposition] = {}

    def counter(self, name: str, what: str, *label_names: str) -> Family[Number]:
        """name: without ``_total``, which Prometheus adds."""
        self._expositions[name] = _Exposition(partial(CounterMetricFamily, name, what, labels=label_names), _add_number)
        return Family[Number](name, self._number)

    def gauge(self, name: str, what: str, *label_names: str, merge: Merge) -> Family[Number]:
        """A number that goes up and down. merge: the numbers of all workers that serve."""
        metric = partial(GaugeMetricFamily, name, what, labels=label_names)
        self._expositions[name] = _Exposition(metric, _add_number, merge, of_serving=True)
        return Family[Number](name, self._number)

    def histogram(self, name: str, what: str, *label_names: str, bounds: Sequence[float]) -> Family[Distribution]:
        """Observations by bucket."""
        names = [*map(floatToGoString, bounds), "+Inf"]

        def add(metric: HistogramMetricFamily, labels: tuple[str, ...], numbers: list[float]) -> None:
            *counts, total = numbers
            metric.add_metric(labels, list(zip(names, accumulate(counts), strict=True)), total)

        self._expositions[name] = _Exposition(partial(HistogramMetricFamily, name, what, labels=label_names), add)
        return Family[Distribution](name, partial(self._distribution, bounds))

    def summary(self, name: str, what: str, *label_names: str) -> Family[Distribution]:
        """Count and sum of observations."""

        def add(metric: SummaryMetricFamily, labels: tuple[str, ...], numbers: list[float]) -> None:
            count, total = numbers
            metric.add_metric(labels, int(count), total)

        self._expositions[name] = _Exposition(partial(SummaryMetricFamily, name, what, labels=label_names), add)
        return Family[Distribution](name, partial(self._distribution, ()))

    def _number(self, key: tuple[str, ...]) -> Number:
        return Number.from_buffer(self._tallies.numbers(key, 1))

    def _distribution(self, bounds: Sequence[float], key: tuple[str, ...]) -> Distribution:
        return Distribution(bounds, self._tallies.numbers(key, len(bounds) + 2))

    def collect(self) -> Iterator[Metric]:
        """What a registry asks of its collectors: totals over all workers."""
        found: dict[str, dict[tuple[str, ...], list[Numbers]]] = {}
        for worker, serves in self._tallies.read():
            for (name, *labels), numbers in worker.items():
                if serves or not self._expositions[name].of_serving:
                    found.setdefault(name, defaultdict(list))[tuple(labels)].append(numbers)
        for name, exposition in self._expositions.items():
            metric = exposition.metric()
            for values, each in found.get(name, {}).items():
                exposition.add(metric, values, [exposition.merge(same) for same in zip(*each, strict=True)])
            yield metric


def _add_number(metric: CounterMetricFamily | GaugeMetricFamily, labels: tuple[str, ...], numbers: list[float]) -> None:
    if not math.isnan(numbers[0]):  # what is there no more
        metric.add_metric(labels, numbers[0])
