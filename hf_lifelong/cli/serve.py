"""The command that serves an adapter over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.console import mute_bars
from .options import FourBits, Model, Revision

if TYPE_CHECKING:
    from .teaching import FolderTeacher


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on; as it is, only this machine can connect.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes one that is free.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs that are answered at once.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=1, help="Inputs that may wait; more are refused.")] = 1024,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The page in a browser.")] = True,
    allow_learning: Annotated[
        bool, typer.Option("--allow-learning", help="Let the page teach and forget tasks, in the adapter's folder.")
    ] = False,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
) -> None:
    """Answer over HTTP, and show a page to try it.

    OpenAI's clients can ask language models. An adapter in a folder is loaded again when it has learned a task.
    """
    from ..serving import Limits
    from ..serving import serve as run

    mute_bars()
    teacher: FolderTeacher | None = None
    if allow_learning:
        if not page or not Path(model).is_dir():
            raise typer.BadParameter("needs the page, and an adapter in a folder", param_hint="--allow-learning")
        from . import teaching

        teacher = teaching.FolderTeacher(Path(model), load_in_4bit)
    limits = Limits(batch_size=batch_size, waiting=max_waiting)
    run(
        model,
        host=host,
        port=port,
        limits=limits,
        page=page,
        teacher=teacher,
        revision=revision,
        load_in_4bit=load_in_4bit,
    )
