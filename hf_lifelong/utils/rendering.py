"""Chat templates come with tokenizers of anybody, and may loop for ever or fill the memory: they are rendered in a
process of their own, with a limit on time and memory. Run as a script, this is that process."""

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

# For the prompts of one call; the process itself takes a second or two to start, on a busy machine far more.
SECONDS, SECONDS_TO_START = 20.0, 300.0
MOST_MEMORY = 4 * 2**30
# How much longer than its prompt a rendered text may be, in characters.
MOST_ADDED = 1_000_000


class Renderer:
    """The process that renders, from its first use to the end of this one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def render(self, template: str, prompts: Sequence[str], variables: Mapping[str, Any]) -> list[str]:
        """Renders each prompt as the single turn of a user, whom the model answers.

        Args:
            template (`str`): The chat template.
            prompts (`list[str]`): Contents of the turns.
            variables (`dict`): What the template knows beside them, such as special tokens.

        Raises:
            ValueError: when the template fails, takes too long, or gives too much.
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
        # `-P`: modules of this package must not be taken for others of the same name.
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
            raise RuntimeError(f"What renders chat templates did not start: `{sys.executable} -P {__file__}`.")

    def _ask(self, line: str, seconds: float) -> str | None:
        """One line of answer to one line; `None` where the process ended, or was ended when its time was up."""
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
            if not answer:  # also after an interrupt: what comes later would be taken for another answer
                self.close()
        return answer or None


RENDERER = Renderer()
atexit.register(RENDERER.close)
if hasattr(os, "register_at_fork"):  # a child has no part in the pipes of its parent
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
        except Exception as error:  # of a template, which may fail in any way
            reply = {"error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve()
