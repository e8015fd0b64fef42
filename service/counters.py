"""What is counted, and how Prometheus reads it.

prometheus_client's own counters take a lock and walk through their buckets: the dozen that a request touches took
30 us. Here the event loop alone counts, so a sum and a bisection do.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class Number:
    """A counter, which only grows, or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Distribution:
    """How many observations lie between two bounds each, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        """bounds: ascending; without any, count and sum alone."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more; a value equal to a bound lies below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Child = TypeVar("Child", Number, Distribution)


class Family(Generic[Child]):
    """Children of one name, told apart by the values of their labels."""

    def __init__(self, name: str, label_names: Sequence[str], make: Callable[[], Child]) -> None:
        self.name = name
        self.label_names = tuple(label_names)
        self.children: dict[tuple[str, ...], Child] = {}
        self._make: Callable[[], Child] = make

    def labels(self, *values: object) -> Child:
        """The child of these values; made when it is asked for first."""
        key = tuple(map(str, values))
        if key not in self.children:
            self.children[key] = self._make()
        return self.children[key]


class Counters:
    """Every family, in the form that a Prometheus registry collects."""

    def __init__(self) -> None:
        self._collected: list[Callable[[], Metric]] = []

    def counter(self, name: str, what: str, *label_names: str) -> Family[Number]:
        """name: without ``_total``, which Prometheus adds."""
        return self._numbers(Family[Number](name, label_names, Number), what, CounterMetricFamily)

    def gauge(self, name: str, what: str, *label_names: str) -> Family[Number]:
        """A number that goes up and down."""
        return self._numbers(Family[Number](name, label_names, Number), what, GaugeMetricFamily)

    def histogram(self, name: str, what: str, *label_names: str, bounds: Sequence[float]) -> Family[Distribution]:
        """Observations by bucket."""
        family = Family[Distribution](name, label_names, lambda: Distribution(bounds))
        names = [*map(floatToGoString, bounds), "+Inf"]

        def collect() -> Metric:
            metric = HistogramMetricFamily(name, what, labels=family.label_names)
            for labels, child in list(family.children.items()):
                buckets = list(zip(names, accumulate(child.counts), strict=True))
                metric.add_metric(labels, buckets, child.sum)
            return metric

        self._collected.append(collect)
        return family

    def summary(self, name: str, what: str, *label_names: str) -> Family[Distribution]:
        """Count and sum of observations."""
        family = Family[Distribution](name, label_names, lambda: Distribution())

        def collect() -> Metric:
            metric = SummaryMetricFamily(name, what, labels=family.label_names)
            for labels, child in list(family.children.items()):
                metric.add_metric(labels, child.counts[0], child.sum)
            return metric

        self._collected.append(collect)
        return family

    def _numbers(
        self, family: Family[Number], what: str, kind: type[CounterMetricFamily | GaugeMetricFamily]
    ) -> Family[Number]:
        def collect() -> Metric:
            metric = kind(family.name, what, labels=family.label_names)
            for labels, child in list(family.children.items()):
                metric.add_metric(labels, child.value)
            return metric

        self._collected.append(collect)
        return family

    def collect(self) -> Iterator[Metric]:
        """What a registry asks of its collectors."""
        return (collect() for collect in self._collected)
