"""Keeps secrets out of files, logs and messages. Knows the names under which they are given, and no secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, quote, quote_plus, unquote, urlsplit, urlunsplit

REDACTED = "[secret]"
_MISTAKEN = frozenset(("api_key_env", "headers_env", "params_env"))
"""Options for names of variables, in which people write the key itself."""
_HOLDING = frozenset(("engine", "extra", "options", "storage_options"))
"""Options whose own options may be secrets: what is no mapping of such is not shown."""
_SHORTEST = 4
"""What has fewer characters is not a key, and stands in every text by chance."""

_SECRET_NAME = re.compile(
    r"""(^|[_.-])(
        api[_-]?keys? | app[_-]?(id|key) | (access|auth|account|subscription|private|secret|signing)[_-]?keys?
        | (access|auth|bearer|id|refresh|session|hf|github|gh|bot|api|security|user)[_-]?tokens? | x-amz-security-token
        | authorization | cookie | set-cookie | credentials? | passwd | password | pwd | secrets? | sig | signature
        | bearer | jwt | passphrase | functions?[_-]?key
    )$""",
    re.IGNORECASE | re.VERBOSE,
)
_WHOLE = frozenset(("key", "token", "auth", "apikey", "apitoken", "accesskey", "sas", "appid"))
"""Names that stand for a secret only where nothing else is in them."""
_INNER = re.compile(r"((?:::|[/=])(?=[a-z][a-z0-9+.-]*://))", re.IGNORECASE)
"""Stands before an address inside of another, as in `zip://rows.csv::https://…` and `https://…?next=https://…`."""
_MOST_LEVELS = 4
_PARAMETER = re.compile(r";([^;=&/]+)=([^;&/]*)")
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:(:[a-z][a-z0-9+.-]*:)*//(\S+\s*$|[^/?#\s]*@)", re.IGNORECASE)
"""What is an address as a whole, or begins like one that somebody enters with a password."""


def is_secret_name(name: str) -> bool:
    """Whether the value of an option, header or query parameter of this name is a secret."""
    return name.lower() in _WHOLE or is_secret_option(name)


def is_secret_option(name: str) -> bool:
    """The same, where `key` and `token` may be names of columns."""
    return _SECRET_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)) is not None


def redact_address(address: str, every: bool = False) -> str:
    """An address without user, password, and what looks like a secret in its query (`every`: all that is in it)."""
    if "://" not in address:
        return address
    return "".join(_redact_one(one, every) if "://" in one else one for one in _INNER.split(address))


def _redact_one(address: str, every: bool) -> str:
    try:
        parts, pairs = _split(address)
    except ValueError:
        return f"{address.partition('://')[0]}://{REDACTED}"
    host = f"{REDACTED}@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    shown = [
        (name, REDACTED if every or is_secret_name(name) or _secrets_of_address(value) else value)
        for name, value in pairs
    ]
    query = parts.query if shown == pairs else "&".join(f"{name}={value}" for name, value in shown)
    path, query = _PARAMETER.sub(_redact_parameter, parts.path), _PARAMETER.sub(_redact_parameter, query)
    return urlunsplit(parts._replace(netloc=host, path=path, query=query, fragment=REDACTED if parts.fragment else ""))


def _redact_parameter(found: re.Match[str]) -> str:
    return f";{found[1]}={REDACTED}" if is_secret_name(unquote(found[1])) else found[0]


def _split(address: str) -> tuple[SplitResult, list[tuple[str, str]]]:
    """An address taken apart, with its query. Raises ValueError where a password may stand in any of its parts."""
    parts = urlsplit(address)
    if "@" in address and "@" not in parts.netloc:
        _ = parts.port  # behind a colon without a number stands the begin of a password with a slash in it
    return parts, parse_qsl(parts.query, keep_blank_values=True)


def redact(value: Any, _seen: dict[int, Any] | None = None) -> Any:
    """Plain data with what is given under the name of a secret, and what addresses carry, taken out.

    What stands in several places is looked through once, so that a few references do not become billions of values.
    """
    seen = {} if _seen is None else _seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Mapping):
        names = seen[id(value)] = dict[Any, Any]()
        for name, item in cast("Mapping[Any, Any]", value).items():
            names[name] = REDACTED if _is_secret(name, item) else redact(item, seen)
        return names
    if isinstance(value, list | tuple):
        items = seen[id(value)] = list[Any]()
        items += [redact(item, seen) for item in cast("list[Any]", value)]
        return items
    return redact_address(value) if isinstance(value, str) and _ADDRESS.match(value) else value


def _is_secret(name: Any, value: Any) -> bool:
    """Whether a value is to be kept out, given under this name."""
    return isinstance(name, str) and isinstance(value, str) and value != "" and is_secret_name(name)


def redact_option(name: str, value: Any) -> Any:
    """The value of an option as messages show it."""
    if is_secret_option(name):
        return REDACTED if value else value
    if name in _MISTAKEN and not (isinstance(value, str) and value.isidentifier()):
        return value if value is None or isinstance(value, Mapping) else REDACTED
    if name in _HOLDING and not isinstance(value, Mapping):
        return REDACTED
    return redact(value) if isinstance(value, str | Mapping) else value


def is_redacted(value: Any, _seen: set[int] | None = None) -> bool:
    """Whether a secret was taken out of plain data, or out of an address in it."""
    seen = set[int]() if _seen is None else _seen
    if isinstance(value, Mapping | list | tuple):
        if id(value) in seen:
            return False
        seen.add(id(value))
        items: Any = cast("Mapping[Any, Any]", value).values() if isinstance(value, Mapping) else value
        return any(is_redacted(item, seen) for item in items)
    return isinstance(value, str) and (
        value == REDACTED or ("://" in value and REDACTED in value and "\n" not in value)
    )


def find_secrets(value: Any) -> list[str]:
    """What `hidden` takes out."""
    if isinstance(value, Mapping):
        plain = cast("Mapping[Any, Any]", value)
        return [
            one for name, item in plain.items() for one in ([item] if _is_secret(name, item) else find_secrets(item))
        ]
    if isinstance(value, list | tuple):
        return [one for item in cast("list[Any]", value) for one in find_secrets(item)]
    return _secrets_of_address(value) if isinstance(value, str) and "://" in value else []


def _secrets_of_address(address: str, levels: int = _MOST_LEVELS) -> list[str]:
    found: list[str | None] = []
    for one in (one for one in _INNER.split(address) if "://" in one):
        try:
            parts, pairs = _split(one)
        except ValueError:
            found += [one]
            continue
        found += [parts.username, parts.password]
        for name, value in pairs:
            is_whole = is_secret_name(name) or (not levels and "://" in value)
            found += [value] if is_whole else _secrets_of_address(value, levels - 1)
        found += [pair[2] for pair in _PARAMETER.finditer(one) if is_secret_name(unquote(pair[1]))]
    return [one for one in found if one]


def remove_secrets(text: str, secrets: Iterable[str], shown: str = REDACTED) -> str:
    """A text without secrets, in any of the forms in which a server or a library may repeat them."""
    for secret in secrets:
        if len(secret) < _SHORTEST:
            continue
        in_json = secret.replace("\\", "\\\\").replace('"', '\\"')
        forms = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], in_json}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, shown)
    return text
