"""Write the events of a run for TensorBoard, with the `tensorboard` package.

Of the package, only the protocol buffers and the record format are imported: neither TensorFlow,
nor the server. Records are written by the training thread, so that a failure is not lost.
"""

import textwrap
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from npgpt.data.tokenizer import REPLACEMENT, Tokenizer
from npgpt.errors import InputError, RunError
from npgpt.system.files import open_regular
from npgpt.training.events import Evaluation, Event, Sample, Step

EXTRA = "pip install 'npgpt[tensorboard]', or leave out --tensorboard"
VERSION = "brain.Event:2"  # of the format, the first record of a file
SCALARS = {
    Evaluation: ("train_loss", "val_loss"),
    Step: ("loss", "lr", "norm", "tokens_per_s"),
}


class EventFile:
    """A new event file in a directory. The names of scalars are the keys of metrics.jsonl.

    `first_step`: the step that is made next. TensorBoard then discards what earlier files have from
    this step on.
    """

    def __init__(self, directory: Path, first_step: int):
        self.protocol = import_protocol()
        now = time.time_ns()  # files are read in the order of their names
        name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.npgpt"
        self.path = directory / name
        try:
            self.file = open_regular(self.path, "wb")
        except OSError as error:
            raise self.failure(error) from None
        start = self.protocol.SessionLog(status=self.protocol.SessionLog.START)
        self.write(file_version=VERSION)
        self.write(step=first_step, session_log=start)

    def add(self, event: Event, tokenizer: Tokenizer) -> None:
        """Write the numbers of an event, or the text of a sample."""
        if isinstance(event, Sample):
            self.add_text(event.step, tokenizer.decode(event.tokens, unknown=REPLACEMENT))
            return
        value = self.protocol.Summary.Value
        numbers = {name: getattr(event, name) for name in SCALARS[type(event)]}
        values = [
            value(tag=name, simple_value=number)
            for name, number in numbers.items()
            if number is not None
        ]
        self.write(step=event.step, summary=self.protocol.Summary(value=values))

    def add_text(self, step: int, text: str) -> None:
        """Write a sample."""
        p = self.protocol
        # TensorBoard shows Markdown, in which a line with an indent is verbatim.
        shown = textwrap.indent(text, "    ", lambda line: True).encode()
        tensor = p.TensorProto(dtype=p.DT_STRING, string_val=[shown])
        metadata = p.text_metadata("sample", "")
        value = p.Summary.Value(tag="sample", tensor=tensor, metadata=metadata)
        self.write(step=step, summary=p.Summary(value=[value]))

    def write(self, **fields: Any) -> None:
        """Append one event and pass it to the system. Raise RunError if that fails."""
        event = self.protocol.Event(wall_time=time.time(), **fields)
        try:
            self.protocol.RecordWriter(self.file).write(event.SerializeToString())
            self.file.flush()
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError) -> RunError:
        """Return the error of a write that failed."""
        return RunError(f"{self.path} could not be written: {error.strerror or error}")

    def close(self) -> None:
        """Close the file. All of it is written: an error has been raised before."""
        with suppress(OSError):
            self.file.close()


def import_protocol() -> Any:
    """Return the parts of tensorboard that write events. Raise InputError if it is missing."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise InputError(f"--tensorboard needs tensorboard ({error}): {EXTRA}") from None
    except Exception as error:  # two versions of protobuf that do not fit
        raise InputError(f"tensorboard cannot be imported ({error}): {EXTRA}") from None
    return SimpleNamespace(
        Event=Event, SessionLog=SessionLog, Summary=Summary, TensorProto=TensorProto,
        DT_STRING=DT_STRING, text_metadata=create_summary_metadata, RecordWriter=RecordWriter,
    )  # fmt: skip
