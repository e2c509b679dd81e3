"""Data sets as Python objects with `formatted_ds` and `task_spec`.

A class of the user's with these two attributes can stand wherever one of these can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from nemotron.data.hub import Hub, Place, hub_rows, is_hub_name
from nemotron.data.rowwise import ROWS, Convert, Done, Row, RowWork
from nemotron.data.stream.blocks import blocks_of
from nemotron.data.stream.jsontext import codec
from nemotron.data.stream.keys import share_of
from nemotron.data.stream.sources import find_sources
from nemotron.data.stream.tally import Tally
from nemotron.errors import UsageError

from .formats import GeneralConversation, OpenAIFormat, OpenAssistant, OpenMathInstruct2, Response, Squad

TYPE = "training_jsonl"
_TREES = (
    "https://huggingface.co/datasets/OpenAssistant/oasst1/resolve/main/2023-04-12_oasst_all.trees.jsonl.gz"
)


@dataclass(frozen=True)
class TaskDataSpec:
    """task_name: what the rows are called in logs. custom_template: a chat template of their own."""

    task_name: str | None = None
    custom_template: str | None = None


class Rows(Sequence[Row]):
    """The rows of one split, read anew for each loop. An index, or `len`, reads them all into memory.

    tally: of the last loop that went to the end: how many rows were left out, and why.
    """

    def __init__(self, read: Callable[[], Iterator[Done]]) -> None:
        self._read = read
        self._all: list[Row] | None = None
        self.tally = Tally()

    def __iter__(self) -> Iterator[Row]:
        if self._all is not None:
            yield from self._all
            return
        loads, tally = codec()[0], Tally()
        for done in self._read():
            tally.add(done.tally)
            rows = done.held[ROWS]
            for written in done.written:
                tally.kept += 1
                yield loads(rows[written.begin : written.end])
        self.tally = tally

    def __len__(self) -> int:
        return len(self._loaded())

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._loaded()[index]

    def _loaded(self) -> list[Row]:
        if self._all is None:
            self._all = list(iter(self))  # list(self) asks for len(self)
        return self._all


def asked(row: Row) -> Any:
    """What a chat asks: the messages before the first of the assistant, or the input."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row.get("input")
    before = []
    for said in messages:
        if said.get("role") == "assistant":
            break
        before.append(said)
    return before


class ChatDataset:
    """Rows of a file or of a data set on the hub, converted as they are read.

    formatted_ds: `train` and `validation`, each `Rows` with `messages`, or None. task_spec: the name.
    convert: what is done with a row. train, validation: where the rows are. share: of the training rows
    that becomes the validation set where there is no other.
    """

    def __init__(
        self,
        convert: Convert,
        train: Place,
        validation: Place | None = None,
        *,
        share: float = 0.0,
        seed: int = 42,
        task_name: str | None = None,
        hub: Hub | None = None,
    ) -> None:
        """hub: `datasets.load_dataset`, for names on the hub. task_name: that of the file without."""
        if not 0 <= share < 1:
            raise UsageError(f"split_validation_size is {share}, not from 0 to below 1")
        self.work = RowWork(convert, TYPE, asked)
        self.train, self.validation, self.share, self.seed = train, validation, share, seed
        self._hub = hub
        self.task_spec = TaskDataSpec(task_name or _task_name(train.path))
        self.formatted_ds: dict[str, Rows | None] = {
            "train": Rows(lambda: self._side(train, False)),
            "validation": None,
        }
        if validation is not None:
            self.formatted_ds["validation"] = Rows(lambda: self.done(validation))
        elif share:
            self.formatted_ds["validation"] = Rows(lambda: self._side(train, True))

    @property
    def is_local(self) -> bool:
        """Whether all rows are in files."""
        return not any(is_hub_name(place.path) for place in (self.train, self.validation) if place)

    def done(self, place: Place, work: RowWork | None = None) -> Iterator[Done]:
        """The rows at a place, converted here and now. Errors: those of `find_sources`, and of the hub."""
        work = work or self.work
        if is_hub_name(place.path):
            yield from hub_rows(place, work, self._hub)
        else:
            yield from map(work, blocks_of(find_sources(place.path)))

    def _side(self, place: Place, drawn: bool) -> Iterator[Done]:
        split = self.share if self.validation is None else 0.0
        for done in self.done(place):
            written = [w for w in done.written if (share_of(w.key, self.seed) < split) is drawn]
            yield replace(done, written=written)


def _task_name(path: str) -> str:
    return "-".join(path.split("/")[-2:]).split(".")[0].removeprefix("-")


class SquadDataset(ChatDataset):
    """SQuAD: see `formats.Squad`. data_path: a file of its rows, instead of the hub's."""

    def __init__(
        self, data_path: str = "rajpurkar/squad", split: str = "train", *, hub: Hub | None = None
    ) -> None:
        held_out = Place(data_path, None, "validation") if is_hub_name(data_path) else None
        super().__init__(Squad(), Place(data_path, None, split), held_out, task_name="squad", hub=hub)


class OasstDataset(ChatDataset):
    """OpenAssistant: see `formats.OpenAssistant`. data_path: its file of trees."""

    def __init__(
        self,
        data_path: str | None = None,
        split_validation_size: float = 0.05,
        seed: int = 42,
        system_prompt: str | None = None,
    ) -> None:
        if data_path is None or is_hub_name(data_path):
            what = "open_assistant is read from the file of its trees"
            raise UsageError(what, where="data_path", next=f"curl -LO {_TREES}, and name that file")
        convert = OpenAssistant(system_prompt)
        share = split_validation_size
        super().__init__(convert, Place(data_path), share=share, seed=seed, task_name="open_assistant")


class OpenMathInstruct2Dataset(ChatDataset):
    """OpenMathInstruct-2: see `formats.OpenMathInstruct2`. data_path: a file, instead of the hub's rows."""

    def __init__(
        self,
        data_path: str = "nvidia/OpenMathInstruct-2",
        output_key: str = "expected_answer",
        split: str = "train_1M",
        split_validation_size: float = 0.05,
        seed: int = 42,
        *,
        hub: Hub | None = None,
    ) -> None:
        place, share = Place(data_path, None, split), split_validation_size
        name = "OpenMathInstruct-2"
        super().__init__(
            OpenMathInstruct2(output_key), place, share=share, seed=seed, task_name=name, hub=hub
        )


class Tulu3SftMixtureDataset(ChatDataset):
    """The mixture of Tulu 3, in messages. data_path: a file, instead of the hub's rows."""

    def __init__(
        self,
        data_path: str = "allenai/tulu-3-sft-mixture",
        split: str = "train",
        split_validation_size: float = 0.05,
        seed: int = 42,
        *,
        hub: Hub | None = None,
    ) -> None:
        place, share = Place(data_path, None, split), split_validation_size
        name = "tulu3_sft_mixture"
        super().__init__(OpenAIFormat(), place, share=share, seed=seed, task_name=name, hub=hub)


class ResponseDataset(ChatDataset):
    """A question and an answer under names of the user's: see `formats.Response`."""

    def __init__(
        self,
        data_path: str,
        val_data_path: str | None = None,
        input_key: str = "input",
        output_key: str = "output",
        subset: str | None = None,
        split: str | None = None,
        val_split: str | None = None,
        split_validation_size: float = 0.0,
        seed: int = 42,
        *,
        hub: Hub | None = None,
    ) -> None:
        convert = Response(input_key, output_key)
        held_out = Place(val_data_path, subset, val_split) if val_data_path else None
        place, share = Place(data_path, subset, split), split_validation_size
        super().__init__(convert, place, held_out, share=share, seed=seed, hub=hub)


class OpenAIFormatDataset(ChatDataset):
    """Conversations in the OpenAI form, tools too: see `formats.OpenAIFormat`.

    use_preserving_dataset: taken for the sake of configs that have it; nothing is ever filled in here.
    """

    def __init__(
        self,
        data_path: str,
        val_data_path: str | None = None,
        chat_key: str = "messages",
        system_key: str | None = None,
        system_prompt: str | None = None,
        tool_key: str | None = "tools",
        use_preserving_dataset: bool = False,
        trim: bool = False,
        split_validation_size: float = 0.0,
        seed: int = 42,
        *,
        hub: Hub | None = None,
    ) -> None:
        convert = OpenAIFormat(chat_key, system_key, system_prompt, tool_key, trim)
        held_out = Place(val_data_path) if val_data_path else None
        share = split_validation_size
        super().__init__(convert, Place(data_path), held_out, share=share, seed=seed, hub=hub)


class GeneralConversationsJsonlDataset(ChatDataset):
    """Conversations with media in files beside them: see `formats.GeneralConversation`."""

    def __init__(
        self,
        data_path: str,
        media_data_dir: str | None = None,
        split_validation_size: float = 0.0,
        seed: int = 42,
    ) -> None:
        convert, name = GeneralConversation(media_data_dir), "general-conversation-jsonl"
        share = split_validation_size
        super().__init__(convert, Place(data_path), share=share, seed=seed, task_name=name)
