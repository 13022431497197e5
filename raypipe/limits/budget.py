"""I keep a run under its caps: the worst case is reserved before a call is sent, what it took is settled after."""

from __future__ import annotations

from raypipe.limits.amounts import NOTHING, Amount, Caps


class Budget:
    """Money, tokens and calls of one run. `spent`: what runs into the same folder took before."""

    def __init__(self, caps: Caps, spent: Amount = NOTHING) -> None:
        self._caps = caps
        self._reserved: dict[str, Amount] = {}
        self._lives: dict[str, str] = {}
        self.spent = spent
        self.exhausted = ""
        """Why no call will ever be sent again; empty while one may be."""

    def reserve(self, client: str, need: Amount) -> bool:
        """Whether a call that takes at most `need` may be sent; if so, `need` is reserved.

        If not, `exhausted` says whether it may be once others have ended.
        """
        reserved = sum(self._reserved.values(), NOTHING)
        lacks = self._lacks(need + self.spent)
        if lacks or (self._lacks(need + self.spent + reserved) == "calls"):
            self.exhausted = self._sentence(lacks or "calls", need)
            return False
        if self._lacks(need + self.spent + reserved):
            return False
        self._reserved[client] = self._reserved.get(client, NOTHING) + need
        return True

    def settle(self, client: str, life: str, reserved: Amount, spent: Amount) -> None:
        """Calls with these reservations ended and took so much. What a lost worker had reserved counts as spent."""
        if self._lives.setdefault(client, life) != life:
            self._lives[client] = life
            self.spent += self._reserved.pop(client, NOTHING)
        if reserved.calls:
            self._reserved[client] = self._reserved.get(client, NOTHING) - reserved
            self.spent += spent

    def _lacks(self, wanted: Amount) -> str:
        caps = self._caps
        if caps.calls is not None and wanted.calls > caps.calls:
            return "calls"
        if caps.tokens is not None and wanted.tokens > caps.tokens:
            return "tokens"
        return "usd" if caps.usd is not None and wanted.usd > caps.usd else ""

    def _sentence(self, what: str, need: Amount) -> str:
        caps, spent = self._caps, self.spent
        if what == "calls":
            return f"max_calls={caps.calls} is reached"
        if what == "tokens":
            left = (caps.tokens or 0) - spent.tokens
            return f"max_tokens={caps.tokens} is reached ({left:,} left, the next call may take {need.tokens:,})"
        left = (caps.usd or 0.0) - spent.usd
        return f"max_cost_usd={caps.usd:g} is reached (${left:.4f} left, the next call may cost ${need.usd:.4f})"
