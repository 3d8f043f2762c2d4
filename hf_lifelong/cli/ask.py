"""The commands that ask an adapter: `predict` and `watch`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..utils.console import mute_bars
from ..utils.texts import one_line
from .lines import as_input, batches, dump
from .options import FourBits, Json, Model, Retrieval, Revision

Columns = Annotated[
    str | None,
    typer.Option(help="Names of columns by role, as YAML or JSON, where a file calls them otherwise: {text: body}."),
]


def predict(
    model: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help='What to answer: texts, JSON: {"question": …, "context": …}, or image files.'
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            help="A .csv or .tsv with a header, or a file with one input a line: text, path, or JSON where it begins "
            "with `{`; `-` reads stdin."
        ),
    ] = None,
    columns: Columns = None,
    as_json: Json = False,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="Answer `unknown` to inputs of no task it knows.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Of a language model: the likeliest label of the task, not a text.")
    ] = False,
    retrieval: Annotated[Retrieval | None, typer.Option(help="How groups are chosen, if not as trained.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs that are answered at once.")] = 32,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
) -> None:
    """Answer inputs without being told their tasks.

    One answer a line, in the order of the inputs: task, score (`-` of a number) and answer, with tabs between; a
    blank line for a blank one. With --json an object, with the number of its line or row as `input`, from 0.
    """
    if bool(texts) == (input is not None):
        raise typer.BadParameter("give either inputs or `--input`", param_hint="INPUT")
    from ..adapter import modality_of
    from ..hub import pull
    from ..loading import load
    from ..pipeline import LifelongPipeline

    mute_bars()
    saved = pull(model, revision=revision)
    given = ((number, as_input(text, number + 1, None)) for number, text in enumerate(texts or ()))
    inputs = given if input is None else inputs_for(saved, input, "--input", columns)
    first = next(inputs, None)
    if first is None:
        raise ValueError(f"`--input` {input} holds nothing to answer; give one input per line, or a table (.csv).")
    loaded, processor = load(saved, load_in_4bit=load_in_4bit)
    answer: Any = LifelongPipeline(model=loaded, **{modality_of(loaded).processor: processor})  # type: ignore[arg-type]
    if labels and not answer.generates:
        raise ValueError("`--labels` is for language models; this adapter answers with labels in any case.")
    options: dict[str, Any] = {"labels": True} if labels else {}
    if retrieval is not None:
        options["policy"] = retrieval
    line = 0
    for batch in batches(first, inputs, batch_size):
        numbers = [number for number, _ in batch]
        try:
            answers = answer([entry for _, entry in batch], batch_size=batch_size, abstain=abstain, **options)
        except ValueError as error:
            raise ValueError(f"Of the inputs from number {numbers[0]} (inputs[0]) on: {error}") from error
        for number, answered in zip(numbers, answers, strict=True):
            if as_json:
                typer.echo(dump({"input": number, **answered}))
            else:
                typer.echo("\n" * (number - line) + _line(answered))
            line = number + 1


def _line(answer: dict[str, Any]) -> str:
    content, score = answer["answer"], answer["score"]
    text = "" if content is None else " ".join(content) if isinstance(content, list) else str(content)
    return f"{one_line(answer['task'])}\t{'-' if score is None else f'{score:.3f}'}\t{one_line(text)}"


def watch(
    model: Model,
    input: Annotated[
        str, typer.Argument(metavar="FILE", help="Inputs as for `predict --input`; `-` reads stdin.")
    ] = "-",
    columns: Columns = None,
    expected_run: Annotated[int, typer.Option(min=100, help="Inputs between two false alarms, on average.")] = 2000,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Inputs that are read at once; with 1 each is judged as soon as it comes.")
    ] = 32,
    revision: Revision = None,
    load_in_4bit: FourBits = False,
) -> None:
    """Say where a stream of inputs changes, without learning.

    One JSON object a line, in the order of the inputs: `input` (its number, from 0; blank lines are no inputs),
    `outcome` (`same`; `return` of a task that the adapter knows; `new`), `group`, `since` (the input where the new
    task began) and `evidence` (1 or more where the stream changes).
    """
    from ..hub import pull
    from ..loading import load
    from ..streams import watch as watch_inputs

    mute_bars()
    saved = pull(model, revision=revision)
    inputs = (entry for _, entry in inputs_for(saved, input, "FILE", columns))
    loaded, processor = load(saved, load_in_4bit=load_in_4bit)
    for number, verdict in enumerate(
        watch_inputs(loaded, processor, inputs, expected_run=expected_run, batch_size=batch_size)
    ):
        typer.echo(dump({"input": number, **asdict(verdict)}))


def inputs_for(saved: Any, source: str, argument: str, columns: str | None) -> Iterator[tuple[int, Any]]:
    """The inputs of a file for an adapter, each with its number; see [`~cli.tables.read_inputs`].

    Raises:
        ValueError: when `columns` is no mapping of texts, or as `read_inputs`.
    """
    from ..objectives import fields_of
    from .parsing import read_yaml
    from .tables import read_inputs

    roles = read_yaml(columns, "--columns") if columns is not None else {}
    if not isinstance(roles, dict) or not all(isinstance(name, str) for pair in roles.items() for name in pair):
        raise ValueError(f"`--columns` is {columns!r:.100}; give names of columns by role, such as '{{text: body}}'.")
    templates = [task.template for task in saved.knowledge.tasks if task.template]
    return read_inputs(source, argument, roles, [sorted(fields_of(template)) for template in templates])
