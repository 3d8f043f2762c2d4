"""The adapter behind a server: loading, answering through one worker, and loading again what has changed."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..adapter import modality_of
from ..hub import CONFIG, TENSORS, pull
from ..loading import load
from ..pipeline import LifelongPipeline
from .batcher import Batcher
from .jobs import Job, Served
from .limits import Limits

logger = logging.getLogger(__name__)

POLL = 2.0  # seconds between two looks at the adapter's folder
TRIES = 3  # at loading a folder while another process writes it


class Engine:
    """Answers for one adapter, from any number of threads.

    The adapter that answers is replaced as a whole: requests that are being worked on end with the old one, those that
    wait go to the new one.

    Args:
        adapter (`str` or `Path`): A folder, or an id on the Hub.
        limits ([`Limits`], *optional*): Limits of requests.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits.

    Raises:
        ValueError, PullError: as [`~hf_lifelong.loading.load`]; ValueError also when it has learned no task.
    """

    def __init__(
        self,
        adapter: str | os.PathLike[str],
        limits: Limits | None = None,
        *,
        revision: str | None = None,
        load_in_4bit: bool = False,
    ) -> None:
        self.adapter, self.revision, self.load_in_4bit = adapter, revision, load_in_4bit
        self.limits = limits or Limits()
        self._is_folder = os.path.isdir(adapter)
        self.served = self._load()
        if not self.served.knowledge.tasks:
            raise ValueError(f"`{adapter}` has learned no task, so it has no answers; teach it one first.")
        self._reloading, self._stopping = threading.Lock(), threading.Event()
        self._refused: Any = None  # the stamp of files that could not be loaded
        self._watcher: threading.Thread | None = None
        self.batcher = Batcher(self._work, self.limits.batch_size, self.limits.wait, self.limits.waiting)

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; `None` if it comes from the Hub."""
        return self.served.saved.folder if self.served.saved.repo_id is None else None

    def submit(self, job: Job, rows: list[Any]) -> Future[list[Any]]:
        """Puts rows into the queue; see [`Batcher`]."""
        return self.batcher.submit(job, rows)  # type: ignore[arg-type]

    def reload(self) -> bool:
        """Loads the adapter again if it has changed. The old one answers until then, and goes on if this fails.

        Returns:
            `bool`: Whether another adapter answers now.

        Raises:
            ValueError, PullError: when what is there cannot be loaded.
        """
        with self._reloading:
            stamp = self._stamp()
            if stamp is None:
                raise ValueError(f"`{self.adapter}` lacks `{CONFIG}` or `{TENSORS}` now; put the adapter back.")
            if stamp == self.served.stamp:
                return False
            try:
                served = self._load()
            except Exception:
                self._refused = stamp
                raise
            self.served = served
            names = ", ".join(served.knowledge.names) or "no task, so it has no answers"
            logger.warning(f"`{served.name}` was loaded again; it knows {names}.")
            return True

    def watch(self, every: float = POLL) -> None:
        """Loads an adapter in a folder again when its files change. For one from the Hub, call `reload`."""
        if self.folder is not None and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, args=(every,), daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """Answers what waits, and stops."""
        self._stopping.set()
        self.batcher.close()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self, every: float) -> None:
        seen = self.served.stamp
        while not self._stopping.wait(every):
            stamp, before = self._stamp(), seen
            seen = stamp
            # Files that still change, or are missing, are being written.
            if stamp is None or stamp != before or stamp in (self.served.stamp, self._refused):
                continue
            try:
                self.reload()
            except Exception as error:  # whatever is wrong with the new files, the old adapter answers
                logger.warning(f"The changed adapter was not loaded, so the one from before answers: {error}")

    def _stamp(self) -> Any:
        """What tells the adapter's files from later ones: the commit on the Hub, or the state of the files in a
        folder; `None` while one is missing."""
        if not self._is_folder:
            return pull(self.adapter, revision=self.revision).commit
        try:
            files = [os.stat(Path(self.adapter) / name) for name in (CONFIG, TENSORS)]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in files)

    def _load(self, tries: int = TRIES) -> Served:
        """The adapter as its files are, from one state of them."""
        stamp = self._stamp()
        try:
            saved = pull(self.adapter, revision=self.revision)
            model, processor = load(saved, load_in_4bit=self.load_in_4bit)
        except (OSError, ValueError):
            if tries == 1 or stamp == self._stamp():
                raise
            return self._load(tries - 1)
        if tries > 1 and stamp != self._stamp():
            return self._load(tries - 1)
        model.eval()
        pipe: Any = LifelongPipeline(model=model, **{modality_of(model).processor: processor})  # type: ignore[arg-type]
        return Served(saved, pipe, stamp)

    def _work(self, job: Job, rows: list[Any]) -> Any:
        return job.run(self.served, rows, self.limits.batch_size)
