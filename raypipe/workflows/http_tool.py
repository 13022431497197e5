"""A tool that sends a request over HTTP; a model fills in its arguments.

Knows nothing of who calls it. Secrets stay in environment variables, which options name; a secret in an address or a
parameter is sent, but neither saved nor shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import orjson
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from raypipe.errors import CallError, Retry, RowError, SpecError
from raypipe.security.permissions import current_permissions
from raypipe.security.secrets import find_secrets, is_redacted, redact, redact_address, remove_secrets
from raypipe.steps.answers.structured import Structure, structure_of
from raypipe.steps.llm.tools import KIND, CustomTool
from raypipe.workflows.prompts import fill, placeholders

_IN_THE_QUERY = ("GET", "HEAD", "DELETE")
_METHODS = (*_IN_THE_QUERY, "POST", "PUT", "PATCH")
_SECRET = ("authorization", "cookie", "key", "token", "secret", "password")
_SHOWN = 300
_TOO_MANY, _SERVER_ERROR = 429, 500
_SENT = ("url", "method", "headers", "headers_env", "params", "body", "max_bytes")


class HttpRequestTool(CustomTool):
    """A request that a model may send: `HttpRequestTool(name="weather", url="https://example.org/v1/{{city}}")`.

    The model's arguments fill the placeholders of `url`; others become query parameters, or with POST, PUT and PATCH
    fields of the JSON body. The server's answer is the result; a status other than 2xx is a failure, of which 429, and
    5xx with a Retry-After header, are tried again. Raises SpecError for an unsound option.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(repr=False)
    """An http or https address; `{{name}}` in its path or query is an argument of the model."""
    method: str = "GET"
    """GET, HEAD, DELETE, POST, PUT or PATCH."""
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    """Headers of every request; none of them a secret."""
    headers_env: dict[str, str] = Field(default_factory=dict[str, str])
    """Headers whose values are in environment variables: `{"Authorization": "MY_TOKEN"}`, or `"Bearer MY_TOKEN"`."""
    params: dict[str, Any] = Field(default_factory=dict[str, Any], repr=False)
    """Query parameters of every request. What looks like a key, here or in `url`, is not saved with the workflow."""
    params_env: dict[str, str] = Field(default_factory=dict[str, str])
    """Query parameters whose values are in environment variables: `{"api_key": "MY_KEY"}`."""
    body: dict[str, Any] | None = Field(default=None, repr=False)
    """Fields of the JSON body of every request."""
    arguments: Any = None
    """The model's arguments: a pydantic class, a JSON Schema, or the dotted path of either. By default the placeholders
    of `url`, as text."""
    max_bytes: int = Field(default=100_000, gt=0)
    """Most bytes that are read of an answer; a longer answer is cut, and its end says so."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url begins with http:// or https:// and a host, got {redact_address(url)!r}")
        if parts.username is not None or placeholders(parts.netloc):
            raise ValueError("url names a host, without a user and without placeholders")
        return url

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        if method.upper() not in _METHODS:
            raise ValueError(f"method is one of {', '.join(_METHODS)}, got {method!r}")
        return method.upper()

    @field_validator("headers", "headers_env", "params_env")
    @classmethod
    def _refuse_secrets(cls, given: dict[str, str], option: ValidationInfo) -> dict[str, str]:
        """A secret is in an environment variable, which is named."""
        for name, value in given.items():
            if option.field_name == "headers":
                if any(word in name.lower() for word in _SECRET):
                    hint = f'write headers_env={{"{name}": "NAME_OF_A_VARIABLE"}}'
                    raise ValueError(f"header {name!r} may be a secret; {hint}")
            elif not _variable_in(value).isidentifier():
                raise ValueError(f"{name!r} ends with the name of an environment variable, never with the key itself")
        return given

    @property
    def is_async(self) -> bool:
        return True

    def structure(self) -> Structure:
        if self.arguments is not None:
            return structure_of(self.arguments)
        names = placeholders(self.url)
        return structure_of(
            {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}
        )

    def settings(self) -> dict[str, Any]:
        schema = None if self.arguments is None else self.structure().json_schema
        own = {name: redact(getattr(self, name)) for name in (*_SENT, *(["params_env"] if self.params_env else []))}
        return super().settings() | own | {"arguments": schema}

    @classmethod
    def restored(cls, settings: Mapping[str, Any]) -> Self:
        made = cls(**settings)
        where = f"tool {made.called!r}"
        if is_redacted(made.settings()):
            problem = "was saved without a secret in its address or parameters; name a variable in params_env"
            raise SpecError.of(where, problem)
        if (permissions := current_permissions()) is not None:
            permissions.check_host(made.url, where)
            for name in made.variables:
                permissions.check_key(name, made.url, (), where)
        return made

    def identity(self) -> dict[str, Any]:
        sent = {name: getattr(self, name) for name in _SENT}
        return super().identity() | sent | ({"params_env": self.params_env} if self.params_env else {})

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables whose values are sent."""
        return tuple(_variable_in(value) for value in (*self.headers_env.values(), *self.params_env.values()))

    def problems(self) -> list[str]:
        unset = [name for name in self.variables if not os.environ.get(name)]
        return [f"needs the environment variable {name}, which is not set; set it" for name in unset]

    def played(self) -> str | None:
        return f"What {self.method} {self.url.partition('?')[0]} would answer."

    def bound(self, arguments: Mapping[str, Any]) -> Callable[[], Any]:
        for problem in self.problems():
            raise RowError(problem, kind=KIND)
        return lambda: self._send(arguments)

    async def _send(self, arguments: Mapping[str, Any]) -> str:
        """The server's answer. Raises RowError, or CallError for a status that the caller may try again."""
        from raypipe.models.http_errors import pause_s
        from raypipe.storage.http import Outgoing, fetch

        url, params, body = self._fill(arguments)
        headers = self.headers | _insert_secrets(self.headers_env)
        params += _insert_secrets(self.params_env).items()
        secrets = [os.environ[name] for name in self.variables]
        secrets += [*find_secrets(self.url), *find_secrets(self.params), *find_secrets(self.body)]
        try:
            answer = await fetch(Outgoing(self.method, url, params, headers, body, self.time_limit_s, self.max_bytes))
        except CallError as error:
            raise CallError(remove_secrets(str(error), secrets), error.kind, error.retry, error.after_s) from None
        text = remove_secrets(answer.text, secrets)
        if not answer.is_good:
            excerpt = " ".join(text.split())[:_SHOWN]
            problem = (
                f"{self.method} {url.partition('?')[0]} answered {answer.status}{f': {excerpt}' if excerpt else ''}"
            )
            after_s = pause_s(answer.headers)
            if answer.status == _TOO_MANY or (answer.status >= _SERVER_ERROR and after_s):
                retry = Retry.SLOW_DOWN if answer.status == _TOO_MANY and after_s else Retry.LATER
                raise CallError(problem, KIND, retry, after_s, answer.status)
            raise RowError(problem, kind=KIND)
        return f"{text}\n[cut after {self.max_bytes} bytes]" if answer.is_cut else text

    def _fill(self, arguments: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], Any]:
        """Address, query parameters and body with the model's arguments."""
        inside = placeholders(self.url)
        url = fill(self.url, {name: quote(_text(arguments.get(name, "")), safe="") for name in inside})
        given = {name: value for name, value in arguments.items() if name not in inside and value is not None}
        is_query = self.method in _IN_THE_QUERY
        params = {**self.params, **(given if is_query else {})}
        body = self.body if is_query else {**(self.body or {}), **given}
        lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in params.items()}
        return url, [(name, _text(one)) for name, values in lists.items() for one in values], body


def _variable_in(value: str) -> str:
    """The environment variable in `Bearer MY_TOKEN`."""
    return value.rpartition(" ")[2]


def _insert_secrets(given: Mapping[str, str]) -> dict[str, str]:
    """`{"Authorization": "Bearer MY_TOKEN"}` with each variable's value in the place of its name."""
    filled: dict[str, str] = {}
    for name, value in given.items():
        variable = _variable_in(value)
        filled[name] = f"{value.removesuffix(variable)}{os.environ[variable]}"
    return filled


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
