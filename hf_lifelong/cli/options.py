"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Adapter: a folder, or an id on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the adapter on the Hub.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
FourBits = Annotated[bool, typer.Option("--load-in-4bit", help="Quantise the base to 4 bits.")]
Retrieval = Literal["signature", "uncertainty", "cascade"]
