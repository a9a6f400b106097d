"""Files of the Hugging Face hub, by its own library: its cache, which timm shares, its mirrors, tokens and retries."""

from __future__ import annotations

import inspect
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.errors import FailureError
from scaleprior.progress import ProgressFn

__all__ = ["HubFile", "stated_sha256"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file that the hub has.

    Attributes:
        repository: owner and name.
        name: of the file in it.
        revision: branch, tag or commit.
    """

    repository: str
    name: str = "model.safetensors"
    revision: str = "main"

    @property
    def url(self) -> str:
        """Where the file is; ``HF_ENDPOINT`` names a mirror."""
        return f"{_endpoint() or 'https://huggingface.co'}/{self.repository}/resolve/{self.revision}/{self.name}"

    def cached(self) -> Path | None:
        """The file in the hub's cache, without a network; None if it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, self.name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def download(self, *, again: bool = False, progress: ProgressFn | None = None) -> Path:
        """The file in the hub's cache, brought there if need be; its size is checked, its hash is not.

        Args:
            again: also if it is there.
            progress: called with (bytes, all bytes, {}).

        Raises:
            FailureError: no connection, no such file, no space.
        """
        from huggingface_hub import hf_hub_download

        options: dict[str, Any] = {}
        if progress is not None and "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _bar(progress)  # before 1.1 the hub draws a bar of its own
        try:
            return Path(
                hf_hub_download(
                    self.repository,
                    self.name,
                    revision=self.revision,
                    endpoint=_endpoint(),
                    force_download=again,
                    library_name="scaleprior",
                    **options,
                )
            )
        except Exception as e:  # requests', httpx' or the hub's own: which, depends on the version
            reason = " ".join(str(e).split())[:300]
            raise FailureError(
                f"download of {self.url} failed: {type(e).__name__}: {reason}",
                hint="check the connection and run again; a mirror can be named by HF_ENDPOINT",
            ) from e


def stated_sha256(path: Path) -> str | None:
    """By the hub's word, for a file of its cache: the name its content lies under. None if that is no such hash."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else None


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _bar(progress: ProgressFn) -> type:
    """A progress bar that tells instead of drawing."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # of the hub's own bars
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **kwargs: Any) -> None:
            progress(int(self.n), int(self.total or self.n), {})

    return Bar
