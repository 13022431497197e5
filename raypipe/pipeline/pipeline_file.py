"""Reads pipelines from files and writes them to files. Knows nothing of how they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import orjson

from raypipe.errors import OutputError, SpecError
from raypipe.files.dump import described, not_json, to_yaml, unfindable
from raypipe.files.load import collected_from
from raypipe.files.schema import PipelineSpec, folder_of, permissions_for, read_spec, spec_of
from raypipe.pipeline.collected_steps import CollectedSteps
from raypipe.security.permissions import Allowances, Permissions


class PipelineFile(CollectedSteps):
    """A pipeline as a file says it."""

    @classmethod
    def from_file(cls, path: str | Path, allow_import: Sequence[str] = (), **allowed: Unpack[Allowances]) -> Self:
        """The pipeline that a YAML or JSON file (a path or a URL) describes. Raises SpecError with all violations.

        A file names steps of ours; what else it names is imported from the modules `allow_import` alone. It reads what
        lies in its own folder or `allow_files`, and sends keys to their providers or as `allow_keys` say; one from a
        URL reads no file, and names hosts of providers or `allow_hosts` alone. SECURITY.md says why.
        """
        return cls.from_spec(read_spec(path), folder_of(path), permissions_for(path, allow_import, **allowed))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], allow_import: Sequence[str] = ()) -> Self:
        """The pipeline that `dump` gave as a mapping; relative paths start from the working directory."""
        here = Path.cwd()
        return cls.from_spec(spec_of(plain, "the mapping"), here, permissions_for(here / "mapping", allow_import))

    @classmethod
    def from_spec(cls, spec: PipelineSpec, base: Path, permissions: Permissions | None = None) -> Self:
        """The pipeline of a file that was read; `base` is the folder that its relative paths start from."""
        pipeline = cls(spec.name, spec.description)
        pipeline._collected = collected_from(spec, base, permissions or permissions_for(base / "file"))
        return pipeline

    def to_yaml(self) -> str:
        """The pipeline as a file; functions are named by their dotted paths."""
        return to_yaml(described(self.name, self.description, self._collected))

    def dump(self) -> dict[str, Any]:
        """The pipeline as the plain mapping that a file holds."""
        return described(self.name, self.description, self._collected)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write it to a file, as JSON when `format` or the file's name says so, else as YAML.

        Raises SpecError for what could not be read back: functions of no module, values that JSON does not have.
        """
        target = Path(path)
        if format not in (None, "json", "yaml") or target.is_dir():
            problem = "is a folder; name a file in it" if target.is_dir() else f"format is json or yaml, not {format!r}"
            raise SpecError.of(str(path), problem)
        if lost := unfindable(self._collected):
            raise SpecError(violations=lost)
        is_json = format == "json" or (format is None and target.suffix == ".json")
        if is_json and (said := next(not_json(self.dump()), "")):
            raise SpecError.of(str(path), f"cannot be JSON ({said}); write YAML")
        try:
            text = orjson.dumps(self.dump(), option=orjson.OPT_INDENT_2).decode() if is_json else self.to_yaml()
        except TypeError as error:
            raise SpecError.of(str(path), f"cannot be JSON ({error}); write YAML") from None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None

    from_yaml = from_json = from_file
