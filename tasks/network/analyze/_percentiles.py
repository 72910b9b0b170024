"""Percentiles of any number of durations in bounded memory: exact while they are few, within 1 % when they are many."""

from __future__ import annotations

from array import array
from collections import Counter

EXACT_SAMPLES = 20_000
"""Samples kept as they are; beyond that they go into buckets."""
_BITS = 7
"""Leading bits of a sample that choose its bucket: 64 buckets for each doubling, so at most 0.8 % off their middle."""


class Durations:
    """Collects durations in nanoseconds.

    >>> durations = Durations()
    >>> for milliseconds in range(1, 101):
    ...     durations.add(milliseconds * 1_000_000)
    >>> durations.percentile_ms(50), durations.percentile_ms(99)
    (50.0, 99.0)
    """

    __slots__ = ("_buckets", "_samples", "count", "longest", "total")

    def __init__(self) -> None:
        self._samples = array("q")
        self._buckets: Counter[int] | None = None
        self.count = 0
        self.total = 0
        self.longest = 0

    def add(self, duration_ns: int) -> None:
        """Note one duration; what a clock that was set back made negative counts as none."""
        if duration_ns < 0:
            duration_ns = 0
        self.count += 1
        self.total += duration_ns
        if duration_ns > self.longest:
            self.longest = duration_ns
        if self._buckets is not None:
            self._buckets[_bucket(duration_ns)] += 1
            return
        self._samples.append(duration_ns)
        if len(self._samples) > EXACT_SAMPLES:
            self._buckets = Counter(map(_bucket, self._samples))
            self._samples = array("q")

    def merge(self, other: Durations) -> None:
        """Add all of another's."""
        for sample in other._samples:
            self.add(sample)
        if other._buckets is None:
            return
        if self._buckets is None:
            self._buckets = Counter(map(_bucket, self._samples))
            self._samples = array("q")
        self._buckets.update(other._buckets)
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def percentile_ms(self, percent: float) -> float | None:
        """The smallest duration that `percent` of all do not exceed (nearest rank), in milliseconds; None without any."""
        if not self.count:
            return None
        rank = max(1, -int(-self.count * percent // 100))
        if self._buckets is None:
            return round(sorted(self._samples)[rank - 1] / 1e6, 3)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return round(min(_middle(bucket), self.longest) / 1e6, 3)
        return round(self.longest / 1e6, 3)

    def summary(self) -> dict[str, float | int | None]:
        """Count, percentiles and the longest, as the reports' rows carry them."""
        return {
            "count": self.count,
            "p50_ms": self.percentile_ms(50),
            "p90_ms": self.percentile_ms(90),
            "p99_ms": self.percentile_ms(99),
            "longest_ms": round(self.longest / 1e6, 3) if self.count else None,
        }


def _bucket(value: int) -> int:
    shift = value.bit_length() - _BITS
    return value if shift <= 0 else (shift << _BITS) + (value >> shift)


def _middle(bucket: int) -> int:
    shift, leading = bucket >> _BITS, bucket & ((1 << _BITS) - 1)
    return bucket if shift == 0 else (leading << shift) + (1 << shift >> 1)
