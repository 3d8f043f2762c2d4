"""Renders chat templates. They come with tokenizers from anybody and may loop for ever or exhaust memory, so they are
rendered in a separate process with limits on time and memory. Run as a script, this module is that process."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

# Limits for the prompts of one call, and for the start of the process: a second or two, far more on a busy machine.
SECONDS, SECONDS_TO_START = 20.0, 300.0
MOST_MEMORY = 4 * 2**30
# Number of characters by which a rendered text may be longer than its prompt.
MOST_ADDED = 1_000_000


class Renderer:
    """The rendering process, which starts at its first use and lives as long as this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def render(self, template: str, prompts: Sequence[str], variables: Mapping[str, Any]) -> list[str]:
        """Renders each prompt as a chat with a single turn of the user, which the model answers.

        Args:
            template (`str`): The chat template.
            prompts (`list[str]`): The user's turns.
            variables (`dict`): Further variables of the template, such as special tokens.

        Raises:
            ValueError: when the template fails, takes too long, or makes too long a text.
        """
        request = {"template": template, "prompts": list(prompts), "variables": dict(variables)}
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.close()
                self._start()
            line = self._ask(json.dumps(request), SECONDS)
        if line is None:
            raise ValueError(f"it did not end within {SECONDS:.0f} seconds and {MOST_MEMORY // 2**30} GB of memory")
        reply = json.loads(line)
        if "error" in reply:
            raise ValueError(reply["error"])
        return list(reply["texts"])

    def close(self) -> None:
        """Ends the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> None:
        # `-P` keeps modules of this package from shadowing others of the same name.
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        nothing: dict[str, Any] = {"template": "", "prompts": [], "variables": {}}
        if self._ask(json.dumps(nothing), SECONDS_TO_START) is None:
            raise RuntimeError(
                f"The process that renders chat templates did not start: `{sys.executable} -P {__file__}`."
            )

    def _ask(self, line: str, seconds: float) -> str | None:
        """Sends one line and returns the line that answers it; `None` if the process ended or exceeded its time."""
        process: Any = self.process
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        answer = ""
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(line + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        finally:
            timer.cancel()
            if not answer:  # also after an interrupt, because a late answer would be taken for the next one
                self.close()
        return answer or None


RENDERER = Renderer()
atexit.register(RENDERER.close)
if hasattr(os, "register_at_fork"):  # a child must not use its parent's pipes
    os.register_at_fork(after_in_child=RENDERER.__init__)  # type: ignore[misc]


def serve() -> None:
    """Answers the lines of stdin on stdout."""
    from hf_lifelong.compat import render_jinja_template

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    for line in sys.stdin:
        reply: dict[str, Any] = {"texts": []}
        try:
            request: dict[str, Any] = json.loads(line)
            for prompt in request["prompts"]:
                chats = [[{"role": "user", "content": prompt}]]
                text = render_jinja_template(
                    chats, chat_template=request["template"], add_generation_prompt=True, **request["variables"]
                )[0][0]
                if len(text) > len(prompt) + MOST_ADDED:
                    raise ValueError(f"it makes {len(text):,} characters of {len(prompt):,}")
                reply["texts"].append(text)
        except Exception as error:  # a template may raise anything
            reply = {"error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve()
