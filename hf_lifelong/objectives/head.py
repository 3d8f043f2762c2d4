"""The interface of the kinds of task that answer with a head of their own, on a base without one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .base import NO_CONSTANTS, TaskKind

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from .forms import InputForm
    from .uncertainty import MemberAnswers


class HeadKind(TaskKind):
    """A kind of task that is answered by a head of its own on a base without one.

    Attributes:
        per_token (`bool`): Whether the head reads every token (`True`) or the mean-pooled text (`False`).
        forms (`tuple[InputForm, ...]`): The forms of input that it answers, where no task is named.
        numeric (`bool`): Whether answers are numbers. `distributions` are then these numbers instead of probabilities
            that sum to 1.
    """

    task_type = "FEATURE_EXTRACTION"
    per_token: ClassVar[bool]
    numeric: ClassVar[bool] = False
    forms: ClassVar[tuple[InputForm, ...]]

    def decode(
        self,
        scores: np.ndarray,
        features: Dataset,
        examples: Dataset,
        columns: Mapping[str, str],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """Turns the probabilities of all features into one answer per example.

        Args:
            scores (`np.ndarray` of shape `[F, D, C]`): Probabilities as `distributions` gives them, of right-padded
                features. D and C may be larger or smaller than a feature needs; what is missing counts as zero.
            features (`datasets.Dataset` of F rows): Made by `encode(training=False)`.
            examples (`datasets.Dataset` of E rows): The data set that `features` was made from.
            columns (`dict[str, str]`): Role to column name.
            labels (`list[str]`): The task's label names.
            constants (`dict[str, float]`): Those of the task, as the method of that name returns them.

        Returns:
            `list[dict]`: E answers in the order of `examples`, each with at least `answer` and `score`.

        Raises:
            ValueError: If the sizes do not fit, or `features` lacks the columns in `extras`.
        """
        missing = [name for name in self.extras if name not in features.column_names]
        if missing:
            raise ValueError(f"features has no column {missing[0]!r}; make it with encode(..., training=False).")
        table = features.select_columns(list(self.extras)).with_format("arrow")[:]
        sources = self.sources_of(examples, self.resolve_columns(examples, columns))
        return self.decode_rows(scores, {name: table.column(name) for name in self.extras}, sources, labels, constants)

    @abstractmethod
    def loss(self, logits: Tensor, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the loss that training minimises.

        Args:
            logits (`Tensor` of shape `[N, T, W]` if `per_token` else `[N, W]`): Outputs of the head, any float dtype.
            batch (`dict[str, Tensor]`): Holds `targets`: int64, or float32 where they are numbers.
            mask (`Tensor` of shape `[N, T]`): Attention mask, 1 for tokens and 0 for padding.

        Returns:
            `Tensor`: float32 scalar, in nats where targets are classes; 0 if the batch has no target that counts.
        """

    @abstractmethod
    def distributions(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the distributions that answers and their uncertainty are computed from.

        Args:
            logits (`Tensor` of shape `[N, T, W]` if `per_token` else `[N, W]`): Outputs of the head, any float dtype.
            mask (`Tensor` of shape `[N, T]`): Attention mask, 1 for tokens and 0 for padding.

        Returns:
            `tuple[Tensor, Tensor, Tensor]`, all float32: `probabilities` `[N, D, C]`, which sum to 1 over C;
            `weights` `[N, D]`, each distribution's share in the row's uncertainty, which sum to 1 over D;
            `log_classes` `[N, D]`, the largest entropy a distribution can have, in nats, at least log 2.
        """

    def uncertainty(self, answers: MemberAnswers, by_variance: bool = False) -> Tensor:
        """How unsure a group is of its answer, from what its members say: by default the entropy of their mean.

        Args:
            answers ([`~objectives.uncertainty.MemberAnswers`]): Made from the `distributions` of every member that
                ran. Members of other kinds may be among them; their entries are not read.
            by_variance (`bool`): Whether members run one by one and the variance between them was asked for.

        Returns:
            `Tensor` of shape `[pairs]`, float32, at least 0.
        """
        from .uncertainty import entropy_of_mean, variance_between  # which import torch

        return variance_between(answers) if by_variance else entropy_of_mean(answers)

    @abstractmethod
    def sizes(self, tokens: int, labels: int) -> tuple[int, int]:
        """D and C of the `distributions` of rows of that many tokens, with that many labels."""

    @abstractmethod
    def decode_rows(
        self,
        scores: np.ndarray,
        features: Mapping[str, Any],
        sources: Sequence[Any],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """`decode` for features that are not in a data set, such as those of `untold.encode_inputs`.

        Args:
            scores (`np.ndarray` of shape `[F, D, C]`): As in `decode`.
            features (`dict`): The columns in `extras`, F entries each; `example` counts from 0 to E - 1.
            sources (`list` of length E): What answers are cut from: contexts (question answering), word lists (token
                classification), anything (text classification). An input of another form has no such source:
                give `""` or `None`, and the answer is empty.
            labels (`list[str]`): The task's label names.
            constants (`dict[str, float]`): As in `decode`.
        """

    def sources_of(self, examples: Dataset, columns: Mapping[str, str]) -> list[Any]:
        """Returns `sources` of `decode_rows` for a data set; by default there is nothing to cut from."""
        return [None] * len(examples)
