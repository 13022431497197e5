"""Notes in a run's manifest where its pipeline came from, and says from there how its rows are run again.

What a manifest says is only shown: a run folder may be anybody's, so nothing in it is opened, imported or sent to.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from raypipe.cli.python_files import is_python
from raypipe.errors import SpecError, Violation
from raypipe.files.overrides import read_override
from raypipe.files.schema import is_url
from raypipe.security.secrets import redact, redact_address
from raypipe.storage.paths import AnyPath

_OPTIONS = {"input": "--input", "settings": "--set", "models": "--model", "base_urls": "--base-url"}
_ALLOWED = {"allow_import": "--allow-import"}


def noted(spec: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A command line as it is written down, without secrets."""
    settings = [shown_word(text, "--set") for text in given.get("settings") or ()]
    addresses = [shown_word(text, "--base-url") for text in given.get("base_urls") or ()]
    origin = {name: redact(value) for name, value in given.items()}
    shown = redact_address(spec, every=True) if is_url(spec) else spec
    return {"spec": shown, **origin, "settings": settings, "base_urls": addresses, "folder": str(Path.cwd())}


def shown_word(word: str, option: str = "") -> str:
    """A word of a command line, the value of `option` where it follows one, without secrets."""
    if option == "--set":
        try:
            return read_override(word).where.removeprefix("--set ")
        except SpecError as error:
            return error.violations[0].where.removeprefix("--set ")
    name, equals, value = word.partition("=")
    return f"{name}={redact_address(value)}" if equals and "/" not in name else redact_address(word)


def check_calls(place: AnyPath, origin: Mapping[str, Any], calls: str | None) -> None:
    """Raises SpecError where a run kept its calls elsewhere and the command line does not say so."""
    kept = origin.get("calls")
    if calls is None and isinstance(kept, str) and kept:
        kept = kept if "://" in kept else str(Path(str(origin.get("folder") or "."), kept))
        problem = f"says that its calls are in {kept}; add --calls {shlex.quote(kept)}, so that none is paid twice"
        raise SpecError.of(f"the run in {place}", problem)


@contextmanager
def explained(place: AnyPath, origin: Mapping[str, Any], is_foreign: bool) -> Generator[None]:
    """A block that makes the pipeline of a run folder: what it may not do is said with what to name instead."""
    try:
        yield
    except SpecError as error:
        if not is_foreign:
            raise
        raise SpecError(violations=[*error.violations, _way_out(place, origin)]) from None


def _way_out(place: AnyPath, origin: Mapping[str, Any]) -> Violation:
    spec = origin.get("spec")
    if not isinstance(spec, str):
        way = "name the pipeline that was run with --spec, which is trusted as `run` trusts it"
    else:
        kind = "Python file" if is_python(spec) else "file"
        again = shlex.join(["raypipe", "retry", str(place), *_again(origin)])
        way = f"where the run is your own, name the {kind} that was run: {again}"
    return Violation(f"the pipeline in {place}", f"is not trusted beyond its own folder; {way}")


def _again(origin: Mapping[str, Any]) -> list[str]:
    """The options that name a pipeline as the run was told it."""
    words = ["--spec", str(origin["spec"])]
    for name, option in (_OPTIONS | _ALLOWED).items():
        said = origin.get(name)
        values: Sequence[Any] = cast("list[Any]", said) if isinstance(said, list) else [said]
        words += [word for value in values if isinstance(value, str) for word in (option, value)]
    return words
