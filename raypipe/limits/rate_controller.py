"""Finds out how fast and how many at once one endpoint takes calls, and holds the whole run to it.

Rates that are declared, or learned from an endpoint's headers, are kept as token buckets. Where none is known, calls
are sent freely until the endpoint refuses one (429); between two refusals it accepted what its limit allows, so the
calls accepted in that time measure the limit. The pace then stays a little below, and grows slowly to find out
whether more is possible. A refusal also cuts the calls in flight, and successes open them again. Times are seconds of a
monotonic clock.
"""

from __future__ import annotations

import math

from raypipe.contracts.model import Quota
from raypipe.limits.messages import Cost

_SHARE = 0.995
"""The share of a known rate that is used: a little less, since clocks differ."""
_BURST_S = 0.1
"""The calls of so many seconds may leave together."""
_TOKEN_BURST_S = 6.0
_FIRST_BURST, _ANSWERED_S, _UNANSWERED_S, _RAMP_LOOK_S = 16, 0.15, 1.0, 0.02
"""An endpoint of unknown limits gets so many calls at once, then twice as many each time half are answered."""
_RAMP_UP_TO = 1 << 12
_LEAST_WINDOW_S = 0.25
_LEAST_CALLS = 4
"""A measurement over less time, or over fewer calls, is not used."""
_LONG_S = 2.0
_CAREFUL = 0.98
_BLINDLY = 0.7
"""The cut for a refusal that comes before there is a measurement."""
_FAST_A_SECOND = 4.0
_SLOWEST_PROBE, _FASTEST_PROBE = 0.01, 0.2
_QUIET_S = 5.0
"""After a few times so long without a refusal, the limit was raised or never found."""
_NEAR = 0.9
_STALE = 1.2
_LONGEST_DEBT_S = 60.0


class _Bucket:
    """A token bucket that may go into debt by one call."""

    def __init__(self, burst_s: float, least: float) -> None:
        self._burst_s, self._least = burst_s, least
        self._rate: float | None = None
        self._level = 0.0
        self._at = 0.0

    def set_rate(self, rate: float | None, now: float) -> None:
        """Tokens a second, from now on."""
        if self._rate is None and rate is not None:
            self._level, self._at = max(self._least, rate * self._burst_s), now
        elif rate != self._rate:
            self._fill(now)
        self._rate = rate

    def _fill(self, now: float) -> None:
        if self._rate is not None:
            most = max(self._least, self._rate * self._burst_s)
            self._level = min(most, self._level + (now - self._at) * self._rate)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until a call may leave."""
        if not self._rate:
            return 0.0
        self._fill(now)
        return max(0.0, (self._least - self._level) / self._rate)

    def take(self, amount: float) -> None:
        """One call never costs more than a minute: the rates are those of minutes, and a header may name any."""
        if self._rate is not None:
            self._level -= min(amount, max(1.0, self._rate * _LONGEST_DEBT_S))


class _Pace:
    """Requests a second, found from refusals."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._ceiling: float | None = None
        self._probe = _SLOWEST_PROBE
        self._accepted = 0
        self.succeeded = 0
        """Calls answered since the last measurement began."""
        self._anchor: float | None = None
        self._quiet_until = -math.inf
        self._refused_at = -math.inf
        self._at = 0.0

    def sent(self, count: int, now: float) -> None:
        if self._anchor is None:
            self._anchor = now
        self._accepted += count

    def refused(self, count: int, in_flight: int, now: float) -> bool:
        """Whether this is a new burst of refusals, for which the pace was cut."""
        # Some of the refused calls may have left before the measurement began, and are not among the accepted ones.
        self._accepted = max(0, self._accepted - count)
        self._refused_at = now
        if now < self._quiet_until:
            return False
        is_long = now - (self._anchor or 0.0) >= _LONG_S
        if self.rate is None:
            self.rate = _CAREFUL * max(self._accepted, 1) / max(now - (self._anchor or 0.0), 1.0)
            self._restart(now)
        # Enough calls must have ended since the last measurement; of a slow endpoint, fewer in a longer time.
        elif self.succeeded >= max(1 if is_long else _LEAST_CALLS, in_flight / 2):
            self._measure(now)
        else:
            self.rate *= _BLINDLY
            self._at = now
        self._quiet_until = now + max(_LEAST_WINDOW_S, 1 / self.rate)
        return True

    def _measure(self, now: float) -> None:
        """Take what was accepted between two refusals for the limit."""
        assert self.rate is not None
        found = max(self._accepted, 1) / max(now - (self._anchor or 0.0), _LEAST_WINDOW_S)
        # The further the pace was above what was accepted, the less is known about the rates between the two.
        self._probe = min(max((self.rate / found - 1) / 2, _SLOWEST_PROBE), _FASTEST_PROBE)
        self._ceiling, self.rate = found, min(self.rate, _CAREFUL * found)
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._anchor, self._accepted, self.succeeded, self._at = now, 0, 0, now

    def grow(self, is_short: bool, now: float) -> None:
        """Find out whether the endpoint takes more, where calls wait for it; otherwise nothing can be learned."""
        passed, self._at = now - self._at, now
        if not is_short or self.rate is None or now < self._quiet_until:
            return
        if self._ceiling is not None and self.rate > _STALE * self._ceiling:
            self._ceiling = None
        if self._ceiling is None or self.rate < _NEAR * self._ceiling:
            self.rate *= _FAST_A_SECOND**passed
        else:
            probe = self._probe + _SLOWEST_PROBE * ((now - self._refused_at) / _QUIET_S) ** 2
            self.rate *= 1 + min(probe, _FASTEST_PROBE) * passed


class _Window:
    """The most calls in flight. Cut when a burst of refusals begins, it soon opens again: what lasts is the pace."""

    def __init__(self) -> None:
        self.size: float | None = None
        self._closed_until = -math.inf

    def refused(self, in_flight: int, now: float) -> None:
        """The first refusal of a burst came with so many other calls in flight."""
        self.size = max(1.0, _NEAR * in_flight)
        self._closed_until = now + _LEAST_WINDOW_S

    def succeeded(self, count: int, slots: int, now: float) -> None:
        if self.size is None or now < self._closed_until:
            return
        self.size += count
        if self.size >= slots:
            self.size = None


class RateController:
    """The rates of one endpoint under one key, for the whole run."""

    def __init__(self, refuses: bool) -> None:
        self._quota = Quota()
        self.pace, self.window = _Pace(), _Window()
        self._requests = _Bucket(_BURST_S, 1.0)
        self._tokens, self._input, self._output = (_Bucket(_TOKEN_BURST_S, 1.0) for _ in range(3))
        self._input_share, self._output_share = 0.25, 1.0
        self._is_ramping = refuses
        self._ramp_allows, self._ramp_succeeded, self._ramp_since = _FIRST_BURST, 0, -math.inf
        self._ramped = 0
        self._paused_until = -math.inf

    def learn(self, quota: Quota, now: float) -> None:
        """Take over rates that the endpoint or its user names; a worker that has had no answer yet knows none."""
        self._quota = quota.over(self._quota)
        if quota.requests is not None:
            self._is_ramping = False
        self._set_rates(now)

    def _set_rates(self, now: float) -> None:
        known = None if self._quota.requests is None else _SHARE * self._quota.requests / 60
        rates = [rate for rate in (known, self.pace.rate) if rate is not None]
        self._requests.set_rate(min(rates) if rates else None, now)
        for bucket, rate in (
            (self._tokens, self._quota.tokens),
            (self._input, self._quota.input_tokens),
            (self._output, self._quota.output_tokens),
        ):
            bucket.set_rate(None if rate is None else _SHARE * rate / 60, now)

    def pause(self, pause_s: float, now: float) -> None:
        """The endpoint asked for a pause of so long."""
        self._paused_until = max(self._paused_until, now + pause_s)

    def refused(self, count: int, in_flight: int, now: float) -> None:
        """The endpoint asked to slow down; `in_flight` are the calls that it has accepted."""
        self._is_ramping = False
        if self.pace.refused(count, in_flight, now):
            self.window.refused(in_flight, now)
        self._set_rates(now)

    def succeeded(self, count: int, slots: int, now: float) -> None:
        """So many calls were answered; the workers would have at most `slots` in flight."""
        self._ramp_succeeded += count
        self.pace.succeeded += count
        self.window.succeeded(count, slots, now)

    def settled(self, reserved: Cost, spent: Cost) -> None:
        """Calls ended: what they really took corrects what was taken for them, and the next estimates."""
        if not self._quota.counts_tokens or not spent.calls or not spent.tokens:
            return
        expected_in, expected_out = self._expected(reserved)
        self._input.take(spent.input_tokens - expected_in)
        self._output.take(spent.output_tokens - expected_out)
        self._tokens.take(spent.tokens - expected_in - expected_out)
        self._input_share += 0.1 * (spent.input_tokens / max(1, reserved.input_tokens) - self._input_share)
        self._output_share += 0.1 * (spent.output_tokens / max(1, reserved.output_tokens) - self._output_share)

    def _expected(self, need: Cost) -> tuple[float, float]:
        return need.input_tokens * self._input_share, need.output_tokens * self._output_share

    @property
    def is_free(self) -> bool:
        """Whether nothing holds calls back."""
        is_known = self._quota.requests is not None or self._quota.counts_tokens
        return not (self._is_ramping or is_known or self.pace.rate is not None or self.window.size is not None)

    def pause_s(self, now: float) -> float:
        """For how long the endpoint has still asked for no call."""
        return max(0.0, self._paused_until - now)

    def wait_s(self, now: float) -> float:
        """Seconds until one more call may leave; 0 if it may leave now."""
        if self._is_ramping and not self.pause_s(now):
            return self._ramp_wait_s(now)
        buckets = (self._requests, self._tokens, self._input, self._output)
        return max(self.pause_s(now), *(bucket.wait_s(now) for bucket in buckets))

    def _ramp_wait_s(self, now: float) -> float:
        """More calls are allowed once half of those so far were answered; without an answer, after a while."""
        if self._ramped < self._ramp_allows:
            return 0.0
        is_answered = self._ramp_succeeded >= self._ramped / 2
        if now < self._ramp_since + (_ANSWERED_S if is_answered else _UNANSWERED_S):
            return _RAMP_LOOK_S
        self._ramp_allows, self._ramp_since = 2 * self._ramp_allows, now
        self._is_ramping = self._ramp_allows < _RAMP_UP_TO
        return 0.0

    def take(self, need: Cost, now: float) -> None:
        """A call leaves."""
        if not self._ramped:
            self._ramp_since = now
        self._ramped += 1
        self.pace.sent(1, now)
        self._requests.take(1.0)
        expected_in, expected_out = self._expected(need)
        self._input.take(expected_in)
        self._output.take(expected_out)
        self._tokens.take(expected_in + expected_out)

    def grow(self, is_short: bool, now: float) -> None:
        """Let the pace grow where calls wait for it."""
        self.pace.grow(is_short, now)
        if is_short:
            self._set_rates(now)
