"""The interface of a kind of task, and what all kinds do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ..utils.texts import without_panics
from .encoding import BatchEncoder
from .labels import bare_integers, declared_names, is_decimal, name_of, shown
from .modality import MODEL_INPUTS, TEXT, Modality
from .rows import DataError, MissingColumnError, check_dataset, check_not_empty, column_values

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

    from .stock import StockUse

NO_CONSTANTS: Mapping[str, float] = MappingProxyType({})


class TaskKind(ABC):
    """One kind of task: all that is particular to it. Stateless: everything it needs arrives as arguments.

    To add a kind, subclass a built-in one or, for a base without a head, [`~objectives.HeadKind`], and register it
    with [`register_kind`].

    Sizes in the docstrings: N rows of a batch, T tokens of its longest row, W outputs of the head, D distributions
    of a row, C classes of a distribution, F features (tokenised rows), E examples (rows of the user's data set).

    Attributes:
        kind (`str`): Name of the kind.
        task_type (`str`): The base that answers it, as PEFT calls it: `"FEATURE_EXTRACTION"` (`AutoModel`) or
            `"CAUSAL_LM"` (`AutoModelForCausalLM`).
        modality ([`~objectives.modality.Modality`]): What its inputs consist of, which must be what the base takes.
        hub_task (`str`, *optional*): The task that the Hub lists models of this kind under.
        example (`str`): An input as Python source, for the code that a card shows.
        stock ([`~objectives.stock.StockUse`]): How an exported task is run without this package.
        targets (`tuple[str, ...]`): Model inputs that carry the targets: some of `labels`, `start_positions` and
            `end_positions`.
        metric (`str`): Key of the primary metric in what `score` returns.
        likeness (`str`): Key of the metric that decides whether two tasks are the same.
        columns (`dict[str, str]`): Default column name of every role.
        aliases (`dict[str, tuple[str, ...]]`): Further default names of a role, tried in order.
        optional (`frozenset[str]`): Roles that a data set may lack.
        label_role (`str`, *optional*): The role that holds class labels.
        named_in (`tuple[str, ...]`): Columns from which the targets of a tokenised data set may have been made; a
            `ClassLabel` among them gives the label names.
        extras (`tuple[str, ...]`): Columns that `encode(training=False)` adds and `decode` reads.
        one_label (`bool`): Whether a row has one label, its class.
        fixed_labels (`tuple[str, ...]`): Names of the head's outputs, where they are the same for every task.
        padding_side (`str`): Side on which rows are padded when the model answers them.
    """

    kind: ClassVar[str]
    task_type: ClassVar[str]
    modality: ClassVar[Modality] = TEXT
    hub_task: ClassVar[str | None] = None
    example: ClassVar[str]
    stock: ClassVar[StockUse]
    targets: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    likeness: ClassVar[str]
    columns: ClassVar[dict[str, str]]
    aliases: ClassVar[dict[str, tuple[str, ...]]] = {}
    optional: ClassVar[frozenset[str]] = frozenset()
    label_role: ClassVar[str | None] = None
    named_in: ClassVar[tuple[str, ...]] = ()
    extras: ClassVar[tuple[str, ...]] = ("example",)
    one_label: ClassVar[bool] = False
    fixed_labels: ClassVar[tuple[str, ...]] = ()
    padding_side: ClassVar[str] = "right"

    def recognise(self, dataset: Dataset) -> None:
        """Refuses a data set whose columns, under their default names, are not those of this kind.

        Raises:
            MissingColumnError: If one is missing.
            ValueError: If one is of another type.
        """
        self.resolve_columns(dataset, {})

    def prepare_tokenizer(self, tokenizer: Any) -> None:
        """Sets on a tokenizer what this kind needs; by default nothing."""
        return

    def prepare(self, dataset: Dataset, columns: Mapping[str, str], template: str | None) -> Dataset:
        """Adds the columns that are put together from others; by default none.

        Args:
            template (`str`, *optional*): As in `Task`; given on language models only.

        Raises:
            ValueError: If the template cannot be used.
        """
        return dataset

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Returns what collates features into a training batch; `tokenizer` is a copy with its `padding_side` set."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def resolve_columns(self, dataset: Dataset, columns: Mapping[str, str]) -> dict[str, str]:
        """Fills in the default column of every role that is not named, and checks all of them.

        Of a tokenised data set (see `is_tokenised`) only the targets are needed, other roles may be missing.

        Args:
            dataset (`datasets.Dataset`): The task's rows.
            columns (`dict[str, str]`): Role to column name, as far as it differs from the default.

        Returns:
            `dict[str, str]`: Role to column name, for every role the data set has. Resolving it again changes nothing.

        Raises:
            MissingColumnError: If a column is missing.
            ValueError: If a role is unknown, or a column of the wrong type.
        """
        check_dataset(dataset)
        unknown = sorted(set(columns) - set(self.columns))
        if unknown:
            roles = ", ".join(self.columns)
            raise ValueError(f"columns has the unknown role {unknown[0]!r}; a {self.kind} task has the roles {roles}.")
        tokenised = self.is_tokenised(dataset)
        resolved = {}
        for role in self.columns:
            name = self._column_of(role, dataset, columns, required=not tokenised and role not in self.optional)
            if name is not None:
                resolved[role] = name
        if tokenised and self.label_role and self.targets[0] in dataset.column_names:
            resolved[self.label_role] = self.targets[0]
        for role, name in resolved.items():
            expected = self.expected_type(role, dataset.features[name])
            if expected:
                raise ValueError(
                    f"columns[{role!r}]: column {name!r} holds {dataset.features[name]}, but a {self.kind} task needs "
                    f"{expected}; name another column or convert it with Dataset.map or Dataset.cast_column."
                )
        return resolved

    def is_tokenised(self, dataset: Dataset) -> bool:
        """Whether a data set already has the model's inputs and this kind's targets."""
        return {"input_ids", *self.targets} <= set(dataset.column_names)

    def encode(
        self,
        dataset: Dataset,
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int,
        training: bool,
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> Dataset:
        """Tokenises a data set.

        A data set that is already tokenised is returned as it is, less the columns that are not needed; each of its
        rows is then an example of its own.

        Args:
            dataset (`datasets.Dataset`): The task's rows.
            columns (`dict[str, str]`): Role to column name.
            labels (`list[str]`): The task's label names, as `label_names` returns them.
            tokenizer (`PreTrainedTokenizerBase`): The backbone's tokenizer.
            max_length (`int`): Longest feature, in tokens, special tokens included.
            stride (`int`): Tokens of context that neighbouring windows share (question answering only).
            training (`bool`): `False` adds the columns in `extras`, which `decode` needs: `example` (row in
                `dataset`) for every kind, and `offsets` or `words` as the kind's class says.
            constants (`dict[str, float]`): Those of the task, as the method of that name returns them.

        Returns:
            `datasets.Dataset`: One row per feature, unpadded: the tokenizer's model inputs and `targets`.

        Raises:
            ValueError: If the data set is empty, or a value in it cannot be encoded; the message names its row.
        """
        check_dataset(dataset)
        check_not_empty(dataset)
        columns = self.resolve_columns(dataset, columns)
        if self.is_tokenised(dataset):
            return self._keep_tokenised(dataset, columns, labels, tokenizer, training, constants)
        encode_batch = BatchEncoder(
            self._encode_named,
            tokenizer,
            names=self._names_of_integers(dataset, columns, labels),
            columns=columns,
            labels=list(labels),
            max_length=max_length,
            stride=stride,
            training=training,
            constants=constants,
        )
        # Without its format, so that batches are plain lists; without the original types, because a column called
        # "labels" may change from strings or ClassLabel to integers.
        return dataset.with_format(None).map(
            encode_batch,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            try_original_type=False,
            desc=f"Encoding for {self.kind}",
        )

    def label_names(self, dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
        """Returns the label names, in the order of the head's outputs; by default `fixed_labels`.

        Args:
            dataset (`datasets.Dataset`): The task's rows.
            columns (`dict[str, str]`): Role to column name.

        Raises:
            ValueError: If the data set is empty, or a label lies outside the names.
        """
        check_dataset(dataset)
        check_not_empty(dataset)
        self.resolve_columns(dataset, columns)
        return list(self.fixed_labels)

    def classes(self, dataset: Dataset, columns: Mapping[str, str]) -> list[Any] | None:
        """Returns the label of each row, as the data set has it, where a row has one label; else `None`."""
        if self.label_role is None or not self.one_label:
            return None
        return column_values(dataset, self.resolve_columns(dataset, columns)[self.label_role])

    def check_names(self, dataset: Dataset, train: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> None:
        """Refuses bare integers where the training data has names, because their order may differ.

        Integers that the training data holds as texts are their own names, and the targets of a tokenised data set
        are positions in the training data's names.

        Args:
            dataset (`datasets.Dataset`): Validation or test rows.
            train (`datasets.Dataset`): The training rows.
            columns (`dict[str, str]`): Role to column name.
            labels (`list[str]`): The task's label names.

        Raises:
            DataError: Names the column.
        """
        if self.label_role is None or list(labels) == [str(i) for i in range(len(labels))]:
            return
        column, train_column = self.resolve_columns(dataset, columns)[self.label_role], columns[self.label_role]
        if not self._are_bare(dataset, column) or self._are_bare(train, train_column):
            return
        numbers_as_texts = any(map(is_decimal, labels))
        by_value = self._declared(train, train_column) is None and numbers_as_texts
        by_position = self.is_tokenised(dataset) and not all(map(is_decimal, labels))
        if not by_value and not by_position:
            raise DataError(
                column,
                f"it holds bare integers, but the labels of `train` have names ({shown(labels)}); give names, or the "
                "same `ClassLabel` with `Dataset.cast_column`.",
            )

    def constants(self, dataset: Dataset, columns: Mapping[str, str]) -> dict[str, float]:
        """Numbers that answering needs and only the training rows give; they are stored with the task. By default
        there are none.

        Raises:
            ValueError: If a value in the data set cannot be used; the message names its row.
        """
        return {}

    def check_constants(self, constants: Mapping[str, float]) -> None:
        """Refuses constants of a saved task that `constants` could not have returned (`ValueError`)."""
        if constants:
            raise ValueError(f"`constants` are {dict(constants)!r:.100}, but a {self.kind} task has none.")

    def scaling(self, constants: Mapping[str, float]) -> tuple[float, float]:
        """The factor and the summand that turn a trained head's output into the one that answers are read from."""
        return 1.0, 0.0

    def head_width(self, labels: Sequence[str]) -> int:
        """Returns W, the number of outputs of the head."""
        return len(labels)

    @abstractmethod
    def references(self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[Any]:
        """Returns the E right answers in the form that `score` compares answers with.

        Raises:
            ValueError: If a label lies outside `labels`; the message names its row.
        """

    @abstractmethod
    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Compares answers with the right ones.

        Args:
            answers (`list` of length E): The `answer` values of `decode`. They may come from another kind, in which
                case they count as wrong.
            references (`list` of length E): As `references` returns them.

        Returns:
            `dict[str, float]`: Metrics by name. `metric` and `likeness` are among them, in [0, 1], and larger is
                better.

        Raises:
            ValueError: If there are no references, or not as many as answers.
        """

    @abstractmethod
    def majority(self, references_train: Sequence[Any], references_test: Sequence[Any]) -> float:
        """Returns the primary metric on the test rows of always giving the training rows' most frequent answer.

        Raises:
            ValueError: If either list is empty.
        """

    def right_answer(self, reference: Any) -> Any:
        """An answer that is right where `references` says `reference`."""
        return reference

    @abstractmethod
    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> tuple[list[Any], list[Any]]:
        """Converts answers and right answers to the form that a module of the `evaluate` library takes.

        Args:
            options (`list[datasets.Features]`): The forms of `predictions` and `references` that the module takes.
            answers, references (`list` of length E): As `score` takes them.
            labels (`list[str]`): The task's label names.

        Returns:
            `tuple[list, list]`: `predictions` and `references`.
        """

    def encode_batch(
        self,
        batch: Mapping[str, list[Any]],
        rows: Sequence[int],
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int,
        constants: Mapping[str, float],
    ) -> dict[str, list[Any]]:
        """Encodes some rows: model inputs, `targets` and `extras`; arguments as in `encode`, which calls it.

        Args:
            batch (`dict[str, list]`): Column → values; labels are given by name.
            rows (`list[int]`): Positions of these rows in the data set, for `example` and for errors.
        """
        # Not abstract: kinds whose inputs are not tokenised, such as images, override `encode` and have no batches.
        raise NotImplementedError(f"`{type(self).__name__}` must define `encode_batch`, or its own `encode`.")

    @abstractmethod
    def expected_type(self, role: str, feature: Any) -> str | None:
        """Says what a role's column must hold, or returns `None` if its `datasets` feature is that."""

    def _tokenised_targets(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str], constants: Mapping[str, float]
    ) -> dict[str, list[Any]]:
        """The targets of a tokenised data set as the head takes them; by default its columns as they are.

        Raises:
            DataError: If a target does not fit `labels`.
        """
        return {}

    def _declared(self, dataset: Dataset, column: str) -> list[str] | None:
        """The names that the label column declares, or the column that tokenised targets were made from."""
        return declared_names(dataset, (column, *self.named_in) if self.is_tokenised(dataset) else (column,))

    def _are_bare(self, dataset: Dataset, column: str) -> bool:
        return self._declared(dataset, column) is None and bare_integers(dataset.features[column])

    def _names_of_integers(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str]
    ) -> Sequence[str] | None:
        """The names in which an integer of the label column is a position; `None` where it is its own name."""
        if self.label_role is None:
            return None
        declared = self._declared(dataset, columns[self.label_role])
        if declared is None and self.is_tokenised(dataset) and not all(map(is_decimal, labels)):
            return labels
        return declared

    def _named(self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[Any]:
        """The label column, each value by its name."""
        names = self._names_of_integers(dataset, columns, labels)
        return [name_of(value, names) for value in column_values(dataset, columns[str(self.label_role)])]

    def _column_of(self, role: str, dataset: Dataset, columns: Mapping[str, str], required: bool) -> str | None:
        named = columns.get(role)
        candidates = (named,) if named is not None else (self.columns[role], *self.aliases.get(role, ()))
        for name in candidates:
            if name in dataset.column_names:
                return name
        if named is None and not required:
            return None
        tried = " or ".join(repr(name) for name in candidates)
        raise MissingColumnError(
            f"columns[{role!r}]: there is no column {tried} in the data set; it has {dataset.column_names}. "
            f"Give the right one as columns={{{role!r}: ...}}."
        )

    def _encode_named(
        self,
        batch: Mapping[str, list[Any]],
        rows: Sequence[int],
        names: Sequence[str] | None,
        columns: Mapping[str, str],
        **options: Any,
    ) -> dict[str, list[Any]]:
        if self.label_role is not None:
            column = columns[self.label_role]
            batch = {**batch, column: [name_of(value, names) for value in batch[column]]}
        return self._encode_batch_for(batch, rows, columns=columns, **options)

    def _encode_batch_for(
        self, batch: Mapping[str, list[Any]], rows: Sequence[int], training: bool, **options: Any
    ) -> dict[str, list[Any]]:
        with without_panics():
            encoded = self.encode_batch(batch, rows, **options)
        return {name: values for name, values in encoded.items() if not training or name not in self.extras}

    def _keep_tokenised(
        self,
        dataset: Dataset,
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        training: bool,
        constants: Mapping[str, float],
    ) -> Dataset:
        new_columns = self._tokenised_targets(dataset, columns, labels, constants)
        if not training:
            new_columns |= self._tokenised_extras(dataset)
        wanted = {*MODEL_INPUTS, *tokenizer.model_input_names, *self.targets}
        features = dataset.with_format(None).select_columns([name for name in dataset.column_names if name in wanted])
        for name, values in new_columns.items():
            if name in features.column_names:
                if column_values(features, name) == values:
                    continue
                features = features.remove_columns(name)
            features = features.add_column(name, values)
        return features

    def _tokenised_extras(self, dataset: Dataset) -> dict[str, list[Any]]:
        return {"example": list(range(len(dataset)))}
