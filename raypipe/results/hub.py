"""Puts the datasets of a run on the Hugging Face hub, in one commit.

Writes no token down. What the hub answers to a wrong request is passed on with the token removed; of other answers only
the status is shown.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raypipe.errors import InfrastructureError, RaypipeError, SpecError
from raypipe.results.card import card, list_data_files
from raypipe.results.saving import count_rows, to_dataset
from raypipe.security.symlinks import check_no_outside_links
from raypipe.storage.artifacts import ARTIFACTS, METADATA, list_artifacts
from raypipe.storage.run_files import LocalCopy

T = TypeVar("T")

_REFUSED = (401, 403)
_WRONG = (400, 422)


@dataclass(frozen=True, slots=True)
class Upload:
    """What is put on the hub, and how."""

    repo_id: str
    private: bool = False
    token: str | None = field(default=None, repr=False)
    generate_card: bool = True
    include_script: bool = False
    license: str | None = None
    commit_message: str | None = None


def push(result: LocalCopy, upload: Upload) -> str:
    """The address of the dataset. What an earlier push left there of a leaf or artifact is removed in the same commit.

    Raises SpecError for an unsound name, for `private` where the dataset is public already, or when `huggingface_hub`
    is not installed; InfrastructureError when the hub cannot be reached or refuses.
    """
    hub = _hub()
    check_no_outside_links(result.path)
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=upload.token)
    with tempfile.TemporaryDirectory(prefix="raypipe-") as scratch:
        added = dict(_files(result, upload, Path(scratch)))
        leaves = "|".join(re.escape(leaf) for leaf in result.manifest["leaves"])
        steps = "|".join(re.escape(step) for step in result.manifest["steps"])
        stale = re.compile(rf"data/({leaves})/part-\d+\.parquet|{ARTIFACTS}/({steps})/.+")
        return _asked(hub, upload, lambda: _committed(hub, api, added, stale, upload))


def _files(result: LocalCopy, upload: Upload, scratch: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Path in the repository and content of each file; a leaf without rows has none."""
    for leaf in result.manifest["leaves"]:
        for part in _parquet(result.path / "data" / leaf, scratch):
            yield f"data/{leaf}/{part.name}", part
    for artifact in list_artifacts(result.path / ARTIFACTS):
        for file in (*artifact.files, artifact.path / METADATA):
            yield file.relative_to(result.path).as_posix(), file
    if (result.path / "pipeline.yaml").exists():
        yield "pipeline.yaml", result.path / "pipeline.yaml"
    if upload.include_script:
        yield "pipeline.py", _script()
    if upload.generate_card:
        yield "README.md", card(result, upload.repo_id, upload.license).encode()


def _script() -> Path:
    """The Python file that is being run. Raises SpecError where there is none."""
    path = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():
        problem = "no Python file is being run, so there is none to include; leave include_script out"
        raise SpecError.of("include_script", problem)
    return path


def _parquet(folder: Path, scratch: Path) -> list[Path]:
    """The Parquet parts of a leaf; made of its rows if it was saved as a dataset."""
    if not count_rows(folder):
        return []
    parts = list_data_files(folder)
    if parts[0].suffix == ".parquet":
        return parts
    made = scratch / folder.name / "part-00000.parquet"
    made.parent.mkdir()
    to_dataset(folder).to_parquet(str(made))
    return [made]


def _committed(hub: Any, api: Any, added: dict[str, Path | bytes], stale: re.Pattern[str], upload: Upload) -> str:
    # `None`, not `False`: an organisation may make its datasets private by default.
    api.create_repo(upload.repo_id, repo_type="dataset", private=upload.private or None, exist_ok=True)
    if upload.private and api.dataset_info(upload.repo_id).private is False:
        problem = "is there already and is public; make it private in its settings, or push to another name"
        raise SpecError.of(f"dataset {upload.repo_id!r}", problem)
    there = api.list_repo_files(upload.repo_id, repo_type="dataset")
    operations = [hub.CommitOperationAdd(path, content) for path, content in added.items()]
    operations += [hub.CommitOperationDelete(path) for path in there if path not in added and stale.fullmatch(path)]
    message = upload.commit_message or "Datasets made with raypipe"
    api.create_commit(upload.repo_id, operations, commit_message=message, repo_type="dataset")
    return f"{api.endpoint}/datasets/{upload.repo_id}"


# What can go wrong.


def _asked(hub: Any, upload: Upload, ask: Callable[[], T]) -> T:
    """What `ask` returns; its errors become errors of raypipe, which carry nothing of the request."""
    http_errors = hub.errors.HfHubHTTPError.__bases__
    try:
        return ask()
    except (OSError, ValueError, *http_errors) as error:
        problem = _explained(hub, upload, error)
    raise problem


def _explained(hub: Any, upload: Upload, error: Exception) -> RaypipeError:
    where = f"dataset {upload.repo_id!r}"
    if isinstance(error, hub.errors.HFValidationError):
        name = "has no name that the hub takes; write 'user/name' with letters, digits, '-', '_' and '.'"
        return SpecError.of(where, name)
    if isinstance(error, hub.errors.HfHubHTTPError):
        return _answered(hub, upload, error)
    if isinstance(error, ValueError):
        reason = _without_token(str(error), upload, hub)
        return SpecError.of(where, f"is not accepted: {reason}")
    endpoint = _without_token(os.environ.get("HF_ENDPOINT") or hub.constants.ENDPOINT, upload, hub)
    return InfrastructureError(
        f"the hub at {endpoint} cannot be reached ({type(error).__name__}); nothing was committed, try again later"
    )


def _answered(hub: Any, upload: Upload, error: Any) -> RaypipeError:
    status: int = error.response.status_code
    where = f"dataset {upload.repo_id!r}"
    if status in _REFUSED:
        hint = "log in with `hf auth login`, or name a token in HF_TOKEN that may write there"
        return InfrastructureError(f"{where}: the hub refuses to write it (HTTP {status}); {hint}")
    if status in _WRONG:
        reason = _without_token(error.server_message or "no reason given", upload, hub)
        return SpecError.of(where, f"is not accepted (HTTP {status}): {reason}")
    return InfrastructureError(f"{where}: the hub answered HTTP {status}; nothing was committed, try again later")


def _without_token(text: str, upload: Upload, hub: Any) -> str:
    for token in {upload.token, hub.get_token()} - {None, ""}:
        text = text.replace(str(token), "***")
    return re.sub(r"hf_\w+|(?<=://)[^/@\s]*@", "***", " ".join(text.split()))


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        problem = "is not installed; pip install 'raypipe[hub]'"
        raise SpecError.of("package 'huggingface_hub'", problem) from None
    return huggingface_hub
