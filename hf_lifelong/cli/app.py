"""The `hf-lifelong` command line. Each command makes one call of the library and prints the result.

Results go to stdout, everything else to stderr. Only commands that need PyTorch and transformers import them, so that
`--help` is quick.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..utils.console import mute_bars, mute_notes
from ..utils.texts import one_line
from .ask import predict, watch
from .errors import as_options
from .lines import dump
from .options import FourBits, Json, Model, Revision
from .push import push
from .serve import serve

# Errors that the user can fix. Any other error is a bug, and shows its traceback.
USER_ERRORS = (ValueError, OSError, KeyError, ImportError, FloatingPointError)


class Commands(TyperGroup):
    """Turns an error that the user can fix into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except USER_ERRORS as error:
            said = str(error.args[0] if isinstance(error, KeyError) else error)
            message = one_line(" ".join([said, *getattr(error, "__notes__", ())]))
            message = as_options(message, self.commands.get(ctx.invoked_subcommand or ""))
            if ctx.params["debug"] or (isinstance(error, KeyError) and " " not in message):
                raise  # a KeyError without a sentence is a bug too
            typer.echo(f"Error: {message}", err=True)
            raise typer.Exit(1) from error


class Command(TyperCommand):
    """Help without the backslashes that Typer up to 0.20, which Flower needs, puts before brackets for Rich."""

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).replace("\\[", "[")


app = typer.Typer(
    name="hf-lifelong",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


command = partial(app.command, cls=Command)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"hf-lifelong {__version__}")
        raise typer.Exit()


@app.callback()
def hf_lifelong(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error happened.")] = False,
) -> None:
    """One model that keeps every task it learns: teach it, ask it, look at it, share it."""


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Learn tasks, one after another.",
)
def learn(ctx: typer.Context) -> None:
    """Takes the arguments of `learning.parse`, which has its own `--help`."""
    from ..evaluation import to_text
    from .learning import Answered, parse, use_all_cores
    from .learning import learn as learn_tasks

    mute_bars()
    description = "Learns tasks one after another, with a new adapter or one that continues learning."
    learning, adapter, training = parse(ctx.args, prog="hf-lifelong learn", description=description)
    use_all_cores(training)
    answers = sys.stdout  # of a stream: one JSON object for each input without a label, and nothing else
    with contextlib.redirect_stdout(sys.stderr):  # Trainer prints what it logs
        printed = Answered(lambda answer: typer.echo(dump(answer), answers))
        trainer, _ = learn_tasks(learning, adapter, training, [printed])
    if trainer.is_world_process_zero() and trainer.matrix is not None:
        report = f"{to_text(trainer.matrix)}\n\nThe adapter is in {training.output_dir}."
        typer.echo(report, err=learning.stream is not None)


command()(predict)
command()(watch)


@command()
def inspect(model: Model, revision: Revision = None, as_json: Json = False) -> None:
    """Show what an adapter has learned.

    Its base is not loaded.
    """
    from ..hub import describe, pull, to_report

    saved = pull(model, revision=revision)
    typer.echo(dump(describe(saved), indent=2) if as_json else to_report(saved))


@command()
def audit(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="Texts and labels to audit: a csv, tsv, json or parquet file, a folder, or an id."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that is asked about the data, if not the one it fits.")
    ] = None,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    false_alarms: Annotated[
        float, typer.Option(help="Share of clean data sets that may be called suspicious.")
    ] = 0.01,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
    as_json: Json = False,
) -> None:
    """Show what the audits of an adapter's tasks found, or audit data.

    Without --data, no base is loaded. With it, the data is searched for a trigger; where a task of the adapter has
    the labels of the data, its members are asked what the suspects do to them.
    """
    from ..hub import pull
    from .audit import audit_data, data_to_lines, stored_audits, to_dict, to_lines

    saved = pull(model, revision=revision)
    if data is None:
        audits = stored_audits(saved)
        shown = to_lines(audits) or "No task has been learned yet."
        typer.echo(dump({name: to_dict(one) for name, one in audits.items()}, indent=2) if as_json else shown)
        return
    mute_bars()
    found = audit_data(saved, data, {"text": text, "label": label}, task, false_alarms, load_in_4bit)
    as_dict = {"asked": found.asked, **(to_dict(found.audit) or {})}
    typer.echo(dump(as_dict, indent=2) if as_json else data_to_lines(found))


@command()
def export(
    model: Model,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name or number of a group, or a task of it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; new or empty.")],
    rank: Annotated[int | None, typer.Option(min=1, help="Compress every layer's update to this rank.")] = None,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
    as_json: Json = False,
) -> None:
    """Write one group as an ordinary LoRA folder.

    It loads without this package, in everything that loads PEFT's adapters.
    """
    from ..adapter import export as export_group
    from ..adapter import knowledge_of
    from ..loading import load

    mute_bars()
    loaded, _ = load(model, revision=revision, load_in_4bit=load_in_4bit)
    is_number = group.isdigit() and group not in knowledge_of(loaded).names
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the report says the same
        report = export_group(loaded, int(group) if is_number else group, folder, rank=rank)
    text = "\n".join(map(one_line, str(report).splitlines()))
    typer.echo(dump({**asdict(report), "folder": str(report.folder)}, indent=2) if as_json else text)


@command()
def forget(
    model: Model,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task to forget.")],
    output: Annotated[
        Path | None, typer.Option(help="New folder for what remains; without it, the adapter's own folder is changed.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
) -> None:
    """Remove a task and everything that was learned from it.

    Scores go too, because they were measured with the task. In the adapter's own folder, so do checkpoints and the
    commits of its training, which hold the task.
    """
    from ..hub import pull
    from ..utils.folders import clear_leftovers
    from .forget import forget_saved

    if output is None:  # a killed call may have left a copy with the task beside the folder
        clear_leftovers(Path(model).resolve())
    saved = pull(model, revision=revision)
    if output is None and saved.repo_id is not None:
        raise typer.BadParameter("give a folder to write to, for an adapter from the Hub", param_hint="--output")
    saved.knowledge.index(task)
    target = output or saved.folder
    if not yes:
        typer.confirm(f"Forget `{one_line(task)}`, and write what remains to {target}?", abort=True, err=True)
    mute_bars()
    remaining = forget_saved(saved, task, target, load_in_4bit=load_in_4bit)
    names = ", ".join(f"`{one_line(name)}`" for name in remaining.names)
    typer.echo(f"Forgot `{one_line(task)}`. {target} knows {names or 'no task'}.")


@command()
def union(
    model: Model,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Adapter on the same base: a folder, or an id.")],
    output: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Another name for a task of OTHER; can be given several times."),
    ] = None,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
) -> None:
    """Write an adapter that knows the tasks of two.

    Each group answers as before. The settings and the tokenizer are those of the first.
    """
    from ..hub import pull
    from .union import union_saved

    pairs = [pair.partition("=") for pair in rename or []]
    if not all(old and new for old, _, new in pairs):
        raise typer.BadParameter("give an old and a new name, such as topics=topics-2", param_hint="--rename")
    names = {old: new for old, _, new in pairs}
    mute_bars()
    known = union_saved(pull(model, revision=revision), pull(other), output, names, load_in_4bit=load_in_4bit)
    listed = ", ".join(f"`{one_line(name)}`" for name in known.names)
    typer.echo(f"{output} knows {listed or 'no task'}.")


command()(push)
command()(serve)


@command("estimate-memory")
def estimate_memory(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base: a folder, or an id on the Hub.")],
    bits: Annotated[
        Literal["4", "8", "16", "32"] | None, typer.Option(help="Bits of a weight; without it as the base is saved.")
    ] = None,
    r: Annotated[str, typer.Option("--r", metavar="INTEGER|full", help="Rank of each member, or full weights.")] = "8",
    members: Annotated[int, typer.Option(help="Snapshots kept of each task.")] = 5,
    trunk_depth: Annotated[float | None, typer.Option(help="Share of the layers that all share.")] = None,
    tasks: Annotated[int, typer.Option(help="Tasks that the adapter knows.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Rows of a training step.")] = 8,
    length: Annotated[int | None, typer.Option(help="Tokens of a row; of images, pixels along a side.")] = None,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens that a language model answers with.")] = None,
    optimizer: Annotated[str, typer.Option(help="As `optim` of the training arguments.")] = "adamw_torch_fused",
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Keep less, run twice.")] = (
        False
    ),
    task_type: Annotated[
        Literal["FEATURE_EXTRACTION", "CAUSAL_LM"],
        typer.Option(help="What the base is: an encoder, a language model."),
    ] = "FEATURE_EXTRACTION",
    as_json: Json = False,
) -> None:
    """Say how much memory a base and its adapter take.

    For loading, training and answering; nothing is loaded for it.
    """
    from ..adapter import DriftAdapterConfig
    from ..memory import estimate_memory as estimate
    from .parsing import rank

    config = DriftAdapterConfig(r=rank(r), members=members, trunk_depth=trunk_depth, task_type=task_type)
    memory = estimate(
        model,
        config,
        bits=int(bits) if bits is not None else None,
        tasks=tasks,
        batch_size=batch_size,
        length=length,
        new_tokens=new_tokens,
        optimizer=optimizer,
        gradient_checkpointing=gradient_checkpointing,
    )
    typer.echo(dump(memory.to_dict(), indent=2) if as_json else str(memory))


def main() -> None:
    """Runs the command line and exits with 0 (done), 1 (an error, which is printed), 2 (wrong usage) or 130
    (interrupted)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)  # addressed to programmers
    mute_notes()
    warnings.formatwarning = lambda message, *where, **more: f"Warning: {one_line(str(message))}\n"
    app(prog_name="hf-lifelong")
