from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.builders import result_on
from tunesmith_stages.contract import ExitCode, Input, StageName, UnitConfig
from tunesmith_stages.failures import StageError
from tunesmith_stages.preconditions import is_nfs, require_inputs, require_volume, require_writable
from tunesmith_stages.progress import Progress
from tunesmith_stages.volume import Volume

KEY = "k" * 64
DIGEST = "d" * 64


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """Return a volume with a finished training and a base in the store."""
    volume = Volume(tmp_path)
    result_on(volume, StageName.TRAIN, KEY, {"model.bin": "abc"})
    store = volume.store("models", DIGEST)
    store.mkdir(parents=True)
    (store / "config.json").write_text("{}")
    manifest = {"digest": DIGEST, "files": [{"path": "config.json", "size": 2, "sha256": "0" * 64}]}
    volume.store_manifest("models", DIGEST).write_text(json.dumps(manifest))
    return volume


def inputs_of(volume: Volume) -> dict[str, Input]:
    trained = volume.result(StageName.TRAIN, KEY)
    assert trained is not None
    return {"trained": trained.as_input(), "base": Input(f"store/models/{DIGEST}", DIGEST)}


def require(volume: Volume, inputs: dict[str, Input], patience: float = 0.0) -> None:
    unit = UnitConfig("convert", "x" * 64, {}, inputs)
    require_inputs(volume, unit, Progress(StageName.CONVERT, "convert", volume.root), patience)


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_inputs_that_are_there(volume: Volume) -> None:
    """Results and sources that are what the key was computed from are accepted at once."""
    require(volume, inputs_of(volume), patience=60)
    assert not (volume.root / "progress.jsonl").exists()


LOSSES: dict[str, tuple[str, Callable[[Volume], object]]] = {
    "a result is gone": ("trained", lambda volume: volume.forget(StageName.TRAIN, KEY)),
    "a file of a result is gone": (
        "trained",
        lambda volume: (volume.unit(StageName.TRAIN, KEY) / "out" / "model.bin").unlink(),
    ),
    "a result was replaced": (
        "trained",
        lambda volume: _edit(volume.unit(StageName.TRAIN, KEY) / "result.json", digest="e" * 64),
    ),
    "a result is unreadable": (
        "trained",
        lambda volume: (volume.unit(StageName.TRAIN, KEY) / "result.json").write_text("{"),
    ),
    "a source is gone": ("base", lambda volume: volume.store("models", DIGEST).rename(volume.root / "elsewhere")),
    "a file of a source is gone": ("base", lambda volume: (volume.store("models", DIGEST) / "config.json").unlink()),
    "a file of a source is cut": (
        "base",
        lambda volume: (volume.store("models", DIGEST) / "config.json").write_text("{"),
    ),
}


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_that_were_lost(volume: Volume, name: str) -> None:
    """An input that is gone, or is not what the key says, is named before anything is made of it."""
    role, lose = LOSSES[name]
    inputs = inputs_of(volume)
    lose(volume)
    with pytest.raises(StageError, match=f"`{role}`") as caught:
        require(volume, inputs)
    assert (caught.value.code, caught.value.reason) == (ExitCode.MISSING_INPUT, "InputLost")
    assert inputs[role].path in caught.value.message


def test_source_of_another_digest(volume: Volume) -> None:
    """The name of a folder in the store is its digest; an input that says otherwise is refused."""
    with pytest.raises(StageError, match="`base`"):
        require(volume, {"base": Input(f"store/models/{DIGEST}", "e" * 64)})


def test_input_in_a_place_of_its_own(volume: Volume) -> None:
    """Who writes stage.json by hand may name any folder; it must be there."""
    (volume.root / "mine").mkdir()
    require(volume, {"base": Input("mine", DIGEST)})
    with pytest.raises(StageError, match="`base`"):
        require(volume, {"base": Input("not-mine", DIGEST)})


def test_input_that_shows_late(volume: Volume, capsys: pytest.CaptureFixture[str]) -> None:
    """With patience, as on NFS, an input that comes in time is used, and the wait is told."""
    inputs = inputs_of(volume)
    folder = volume.unit(StageName.TRAIN, KEY)
    folder.rename(volume.root / "not yet")
    thread = threading.Timer(0.3, lambda: (volume.root / "not yet").rename(folder))
    thread.start()
    require(volume, inputs, patience=30)
    thread.join()
    assert "waiting up to 30 s for the input `trained`" in json.loads(capsys.readouterr().out)["note"]


# --- file systems ----------------------------------------------------------------------------------------------------

MOUNTS = r"""
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /volume rw,relatime shared:9 - nfs4 10.0.0.5:/export rw,vers=4.2
31 30 0:31 / /volume/scratch rw - tmpfs tmpfs rw
32 22 0:32 / /old rw master:1 - nfs 10.0.0.5:/old rw,vers=3
33 22 0:33 / /with\040blank rw - nfs4 10.0.0.5:/blank rw
34 22 0:34 / /covered rw - nfs4 10.0.0.5:/covered rw
35 34 0:35 / /covered rw - ext4 /dev/sdb rw
""".lstrip()

PLACES = {
    "/volume": True,
    "/volume/stages/train": True,
    "/volume/scratch/x": False,
    "/volumes": False,
    "/old": True,
    "/with blank/x": True,
    "/covered/x": False,
    "/": False,
    "/home": False,
}


@pytest.mark.parametrize("place", PLACES)
def test_nfs_is_recognised(tmp_path: Path, place: str) -> None:
    """What lies on NFS is known by the innermost mount above it."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert is_nfs(Path(place), tmp_path / "mountinfo") is PLACES[place]


def test_this_machines_mounts_can_be_read(tmp_path: Path) -> None:
    """The real table of mounts is understood, and the folder of a test is not on NFS; without a table nothing is."""
    assert not is_nfs(tmp_path)
    assert not is_nfs(tmp_path, tmp_path / "no such table")


# --- the volume ------------------------------------------------------------------------------------------------------


def test_volume_that_is_not_there(tmp_path: Path) -> None:
    """A root that is missing, or is a file, is a mistake in the job's settings."""
    (tmp_path / "file").write_text("")
    for name in ("no such folder", "file"):
        with pytest.raises(StageError, match=name) as caught:
            require_volume(Volume(tmp_path / name))
        assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "VolumeNotFound")
    require_volume(Volume(tmp_path))


def test_writing_is_tried_without_a_trace(tmp_path: Path) -> None:
    """Folders that are missing are made; of the trial itself nothing is left."""
    require_writable([tmp_path / "a" / "b", tmp_path])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a", "a/b"]


def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    """A file where a folder belongs is not taken for a lack of rights."""
    (tmp_path / "stages").write_text("")
    with pytest.raises(OSError, match="stages"):
        require_writable([tmp_path / "stages" / "train"])
