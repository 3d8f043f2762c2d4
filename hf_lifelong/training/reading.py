"""How far a stream without boundaries was read, on disk.

`output_dir/_stream/reading` holds positions and the state of the detector, but no rows: a resumed run reads the rows
of the segment at hand from the stream again. The folder is replaced whole, and checked by digests when it is read.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from ..utils.digests import RECORD, check_files, record_files
from ..utils.files import DamagedFileError, read_json, read_tensors, write_json, write_tensors
from ..utils.folders import atomic_folder
from .checkpoints import stream_folder

READING, STATE, DETECTOR = "reading", "reading.json", "detector.safetensors"
FULL, END = "full", "end"


@dataclass(frozen=True)
class Boundary:
    """The end of a segment of a stream.

    Args:
        task (`str`): The name of the task that the segment becomes.
        since (`int`): Position of the first input after the segment.
        outcome (`str`): What comes after it: `"new"` or `"return"`, as in [`~hf_lifelong.streams.Verdict`]. `"full"`:
            more of the same, for which the buffer has no room. `"end"`: nothing.
        group (`str`, *optional*): The group that returns.
        evidence (`float`): As in `Verdict`; 0 if no boundary was found.
    """

    task: str
    since: int
    outcome: str
    group: str | None = None
    evidence: float = 0.0


@dataclass(frozen=True)
class Reading:
    """How far a stream was read.

    Args:
        position (`int`): Number of inputs that were read.
        start (`int`): Position of the first input of the segment at hand.
        group (`str`, *optional*): The group that the segment belongs to, as far as the detector knows.
        boundary ([`Boundary`], *optional*): The end of the segment, if it was found but is not dealt with yet.
        labels (`list[str]`): Labels of the segment before, if that was of another task.
        boundaries (`int`): Number of boundaries found.
        labelled (`int`): Number of inputs with a label.
        before (`list[str]`): Names of the tasks that the adapter knew before the stream.
        learned (`list[str]`): Names of the tasks that it knew at this point.
        rows (`str`): Digest of the segment's inputs with a label.
        forms (`dict[str, str]`): The type of each column.
    """

    position: int = 0
    start: int = 0
    group: str | None = None
    boundary: Boundary | None = None
    labels: list[str] = field(default_factory=list)
    boundaries: int = 0
    labelled: int = 0
    before: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    rows: str = ""
    forms: dict[str, str] = field(default_factory=dict)


def write_reading(output_dir: str | os.PathLike[str], reading: Reading, detector: dict[str, Any]) -> None:
    """Replaces what is known of a stream's reading, whole or not at all.

    Args:
        output_dir (`str`): Where the stream is learned.
        reading ([`Reading`]): How far it was read.
        detector (`dict`): State of the detector.
    """
    stream_folder(output_dir).mkdir(parents=True, exist_ok=True)
    with atomic_folder(stream_folder(output_dir) / READING) as folder:
        tensors: dict[str, Tensor] = {}
        write_json(folder / STATE, {"reading": asdict(reading), "detector": packed(detector, tensors)})
        write_tensors(folder / DETECTOR, tensors)
        record_files(folder)


def read_reading(output_dir: str | os.PathLike[str]) -> tuple[Reading, dict[str, Any]] | None:
    """How far a stream was read, and the state of its detector; `None` if nothing was written.

    Raises:
        DamagedFileError: when the folder is not as it was written.
    """
    folder = stream_folder(output_dir) / READING
    if not (folder / RECORD).exists():
        return None
    try:
        check_files(folder)
        state = read_json(folder / STATE)
        tensors = read_tensors(folder / DETECTOR)
    except DamagedFileError as error:
        raise DamagedFileError(
            folder,
            f"so it is not known how far the stream was read ({error}). Start again without `resume_from_checkpoint`, "
            "with another `output_dir`; the adapter in this one is whole. Otherwise",
        ) from error
    reading = Reading(**state["reading"])
    if state["reading"]["boundary"] is not None:
        reading = replace(reading, boundary=Boundary(**state["reading"]["boundary"]))
    return reading, unpacked(state["detector"], tensors)


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A state of tensors, texts and numbers in dicts and lists as JSON, in which the names of tensors stand for them.

    Args:
        value: The state.
        tensors (`dict[str, Tensor]`): Takes the tensors, by name.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.clone()  # a file holds no two tensors that share memory
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {key: packed(inner, tensors) for key, inner in value.items()}}
    return [packed(inner, tensors) for inner in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that [`packed`] was given."""
    if isinstance(value, list):
        return [unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].clone()  # not mapped to a file that is replaced
    return {key: unpacked(inner, tensors) for key, inner in value["dict"].items()}
