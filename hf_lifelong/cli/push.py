"""The command that pushes an adapter to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .lines import dump
from .options import Json


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of an adapter.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Repository, such as me/model.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; `main` without it.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Name of the base on the Hub, for one from a folder.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request, change no branch.")] = False,
    parent_commit: Annotated[str | None, typer.Option(help="The commit that this push follows or replaces.")] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Push a Space of the same name too, with the page of `serve`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Push an adapter to the Hub, in one commit.

    Nothing is overwritten that it does not continue. The token is that of `hf auth login` or HF_TOKEN.
    """
    from ..hub import CARD, CONFIG, addressed, push_space, push_to_hub, read_saved
    from ..utils.files import read_json

    if space and create_pr:
        raise typer.BadParameter("the page shows a branch, not a pull request; leave one out", param_hint="--space")
    card, config = folder / CARD, folder / CONFIG
    text = None
    if card.is_file() and config.is_file():
        text = addressed(card.read_text(encoding="utf-8"), read_json(config), repo_id, base_model)
    commit = push_to_hub(
        folder,
        repo_id,
        card=text,
        base_model=base_model,
        private=private or None,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        parent_commit=parent_commit,
    )
    result = {"url": commit.pr_url or commit.commit_url, "commit": commit.oid}
    if space:
        modality = read_saved(folder).knowledge.modality
        page = push_space(commit.repo_url.repo_id, revision=revision, modality=modality)
        result["space"] = str(page.repo_url)
    typer.echo(dump(result, indent=2) if as_json else "\n".join(filter(None, (result["url"], result.get("space")))))
