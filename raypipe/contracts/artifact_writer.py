"""Saves files that a step makes beside its rows. Knows nothing of rows, nor of where the run folder is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from raypipe.contracts.declaration import Spec
from raypipe.storage.artifacts import ArtifactStore
from raypipe.storage.paths import AnyPath


class ArtifactWriter(Spec):
    """What a step saves files with while it is at work in a run."""

    if TYPE_CHECKING:
        name: str | None

    _artifacts: ArtifactStore | None = PrivateAttr(default=None)

    def save_artifact(
        self, name: str, write_function: Callable[[Path], Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Keep files with the results: `write_function(folder)` writes them into the folder that it is given.

        They become `artifacts/<step>/<name>/` of the run, with `metadata` as `metadata.json`, in place of what was
        saved under the name before; of several workers the last one wins. Outside of a run nothing is kept.
        """
        if self._artifacts is None:
            problem = "step %r is not at work in a run, so its artifact %r is not saved"
            logging.getLogger("raypipe").warning(problem, self.name or type(self).__name__, name)
        else:
            self._artifacts.save(name, write_function, metadata)

    def keep_artifacts_in(self, folder: AnyPath | None) -> None:
        """Where the run keeps artifacts, from now on; `None`: nowhere."""
        self._artifacts = None if folder is None else ArtifactStore(folder, self.name or type(self).__name__)
