"""TensorBoard's file format, as TensorBoard itself reads and writes it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tunesmith_stages.track.event_file import (
    masked_crc,
    messages,
    record,
    scalars,
    step_and_names,
    text,
    version,
)


def test_checksum() -> None:
    """The checksum of "123456789" is the one that the definition of CRC-32C gives, masked."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    """Version, numbers and texts come out as they went in, and large steps and odd numbers too."""
    made = [
        version(1.5),
        text(1.5, "training", "| ü | $ |"),
        scalars(2.5, 1, {"loss": 0.5, "gradNorm": math.inf, "large": -1e300}),
        scalars(3.5, 3_000_000_000, {"loss": math.nan}),
    ]
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(b"".join(map(record, made)))
    events = list(EventFileLoader(str(file)).Load())
    assert events[0].file_version == "brain.Event:2"
    assert [(event.wall_time, event.step) for event in events] == [(1.5, 0), (1.5, 0), (2.5, 1), (3.5, 3_000_000_000)]
    (told,) = events[1].summary.value
    assert (told.tag, told.metadata.plugin_data.plugin_name) == ("training", "text")
    assert told.tensor.string_val[0].decode() == "| ü | $ |"
    loss, norm, large = events[2].summary.value
    assert (loss.tag, loss.tensor.float_val[0]) == ("loss", 0.5)
    assert (norm.tag, norm.tensor.float_val[0]) == ("gradNorm", math.inf)
    assert large.tensor.float_val[0] == -math.inf
    assert math.isnan(events[3].summary.value[0].tensor.float_val[0])


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    """Steps and names are found in a file of its own writer."""
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(step=300, summary=Summary(value=[Summary.Value(tag="loss", simple_value=1.0)])))
    writer.close()
    (file,) = tmp_path.iterdir()
    found = [step_and_names(message) for message in messages(file)]
    assert [step for step, _ in found if step] == [300]
    assert (300, ["loss"]) in found


@pytest.mark.parametrize("damage", ["cut", "length", "content", "empty"])
def test_what_is_damaged_ends_the_file(tmp_path: Path, damage: str) -> None:
    """A record that was cut off by a kill, or changed, is left out with all that follows; those before are kept."""
    whole = [record(scalars(float(step), step, {"loss": 1.0})) for step in (1, 2)]
    second = {
        "cut": whole[1][:-1],
        "length": bytes([whole[1][0] ^ 1]) + whole[1][1:],
        "content": whole[1][:14] + bytes([whole[1][14] ^ 1]) + whole[1][15:],
        "empty": b"",
    }[damage]
    file = tmp_path / "events"
    file.write_bytes(whole[0] + second)
    assert [step_and_names(message) for message in messages(file)] == [(1, ["loss"])]
