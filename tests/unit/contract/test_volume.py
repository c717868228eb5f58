from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.builders import result_on
from tunesmith_stages.contract import FileEntry, StageName
from tunesmith_stages.volume import (
    UnsafePathError,
    Volume,
    files_below,
    manifest_of,
    publish,
    sha256_of,
    write_whole,
)

KEY = "k" * 64


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "volume" / "data").mkdir(parents=True)
    (tmp_path / "volume" / "data" / "faq.json").write_text("[]")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text("[]")
    return Volume(tmp_path / "volume")


# --- paths of users --------------------------------------------------------------------------------------------------

UNSAFE_PATHS = {
    "empty": "",
    "the parent": "..",
    "up and away": "../outside/secret.json",
    "up in the middle": "data/../../outside",
    "up but still inside": "data/../data/faq.json",
    "absolute": "/etc/passwd",
    "absolute, twice the slash": "//etc/passwd",
    "with a NUL": "data/faq.json\0.txt",
    "a link to a file outside": "file-out",
    "a link to a folder outside": "folder-out",
    "through a link to a folder outside": "folder-out/secret.json",
    "a link by way of a link": "link-to-link",
    "a link that climbs": "climbs",
    "a link to itself": "circle",
}


@pytest.mark.parametrize("name", UNSAFE_PATHS)
def test_paths_that_leave_the_volume_are_refused(volume: Volume, name: str) -> None:
    """A path that a user gives never leads out of the volume, whatever links lie on the way."""
    outside = volume.root.parent / "outside"
    (volume.root / "file-out").symlink_to(outside / "secret.json")
    (volume.root / "folder-out").symlink_to(outside)
    (volume.root / "link-to-link").symlink_to("file-out")
    (volume.root / "climbs").symlink_to("../outside/secret.json")
    (volume.root / "circle").symlink_to("circle")
    with pytest.raises(UnsafePathError, match=r"volume|leads back"):
        volume.resolve(UNSAFE_PATHS[name])


SAFE_PATHS = {
    "plain": ("data/faq.json", "data/faq.json"),
    "with a dot": ("./data/./faq.json", "data/faq.json"),
    "a link inside": ("models/latest", "data"),
    "through a link inside": ("models/latest/faq.json", "data/faq.json"),
    "an absolute link that stays inside": ("absolute", "data"),
    "dots in a name": ("data/a..b", "data/a..b"),
    "not there yet": ("no/such", "no/such"),
}


@pytest.mark.parametrize("name", SAFE_PATHS)
def test_paths_inside_are_followed(volume: Volume, name: str) -> None:
    """Links may be used as long as they stay in the volume, as hub caches do."""
    (volume.root / "models").mkdir()
    (volume.root / "models" / "latest").symlink_to("../data")
    (volume.root / "absolute").symlink_to(volume.root / "data")
    given, place = SAFE_PATHS[name]
    assert volume.resolve(given) == volume.root / place


# --- results ---------------------------------------------------------------------------------------------------------


def test_result_of_a_finished_unit_is_found(volume: Volume) -> None:
    """A result whose files are all there counts."""
    made = result_on(volume, StageName.TRAIN, KEY, {"a.bin": "abc", "ß.txt": "né"})
    assert volume.result(StageName.TRAIN, KEY) == made


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "a file is missing": lambda unit: (unit / "out" / "a.bin").unlink(),
    "a file is short": lambda unit: (unit / "out" / "a.bin").write_text("ab"),
    "a file is longer": lambda unit: (unit / "out" / "a.bin").write_text("abcd"),
    "the files are gone": lambda unit: (unit / "out").rename(unit / "elsewhere"),
    "no result": lambda unit: (unit / "result.json").unlink(),
    "an empty result": lambda unit: (unit / "result.json").write_text(""),
    "half a result": lambda unit: (unit / "result.json").write_text((unit / "result.json").read_text()[:50]),
    "a result that is a list": lambda unit: (unit / "result.json").write_text("[]"),
    "a result that is no text": lambda unit: (unit / "result.json").write_bytes(b"\xff\xfe"),
    "a result with other fields": lambda unit: _edit(unit, extra=1),
    "a result of another key": lambda unit: _edit(unit, key="other"),
    "a result of another stage": lambda unit: _edit(unit, stage="convert"),
    "a result of another contract": lambda unit: _edit(unit, version=2),
    "a result that is a folder": lambda unit: _folder_instead(unit / "result.json"),
    "a result in a circle of links": lambda unit: _circle_instead(unit / "result.json"),
    "a result that lies elsewhere": lambda unit: _edit(unit, path="data"),
    "a result that lies outside": lambda unit: _edit(unit, path="../outside", files=[]),
    "a file that is a link out of the volume": lambda unit: _link_instead(unit / "out" / "a.bin"),
    "a file that is a link to its own content": lambda unit: _link_instead(unit / "out" / "a.bin", inside=True),
    "a folder that is a link": lambda unit: _link_instead(unit / "out" / "sub", inside=True),
    "files below a link": lambda unit: _link_instead(unit / "out", inside=True),
    "a link, and a result without files": lambda unit: _link_instead(_without_files(unit) / "out", inside=True),
    "a file that is a folder": lambda unit: _folder_instead(unit / "out" / "a.bin"),
}


def _edit(unit: Path, **changes: object) -> None:
    path = unit / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _circle_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _link_instead(path: Path, *, inside: bool = False) -> None:
    """Put in the place of `path` a link to the same content, on the volume or outside of it."""
    volume = path.parents[path.parts[::-1].index("stages")]
    place = (volume if inside else volume.parent) / f"moved-{path.name}"
    path.rename(place)
    path.symlink_to(place)


def _without_files(unit: Path) -> Path:
    _edit(unit, files=[])
    return unit


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_results_do_not_count(volume: Volume, name: str) -> None:
    """A result that does not hold what it says is made again, never used and never an error."""
    made = result_on(volume, StageName.TRAIN, KEY, {"a.bin": "abc"})
    unit = volume.unit(StageName.TRAIN, KEY)
    (unit / "out" / "sub").mkdir()
    (unit / "out" / "sub" / "b.bin").write_text("de")
    _edit(unit, files=[vars(entry) for entry in (*made.files, FileEntry("sub/b.bin", 2, "0" * 64))])
    assert volume.holds(made.as_input())
    BREAKAGES[name](unit)
    assert volume.result(StageName.TRAIN, KEY) is None
    assert not volume.holds(made.as_input())


def test_volume_whose_folders_were_moved_to_another_disk(volume: Volume) -> None:
    """An administrator's link above the results, from the volume to a larger disk, makes no result invalid."""
    made = result_on(volume, StageName.TRAIN, KEY, {"a.bin": "abc"})
    disk = volume.root.parent / "disk"
    (volume.root / "stages").rename(disk)
    (volume.root / "stages").symlink_to(disk)
    assert volume.result(StageName.TRAIN, KEY) == made


def test_result_that_cannot_be_looked_at(volume: Volume) -> None:
    """An error that says nothing about whether a result is there is not taken for a no: that could cost a training."""
    volume.units(StageName.TRAIN).mkdir(parents=True)
    with pytest.raises(OSError, match="name too long"):
        volume.result(StageName.TRAIN, "k" * 300)


def test_forgotten_unit(volume: Volume) -> None:
    """A unit that is forgotten is made again; forgetting what is not there does no harm."""
    result_on(volume, StageName.REGISTER, KEY, {"Modelfile": "FROM x"})
    for _ in range(2):
        volume.forget(StageName.REGISTER, KEY)
        assert volume.result(StageName.REGISTER, KEY) is None
        assert not volume.unit(StageName.REGISTER, KEY).exists()


def test_attempts_are_all_but_the_checkpoints(volume: Volume) -> None:
    """Tries at a unit are found; the unit itself and its checkpoints are none."""
    for folder in (
        volume.unit(StageName.TRAIN, KEY),
        volume.attempt(StageName.TRAIN, KEY, "2"),
        volume.attempt(StageName.TRAIN, KEY, "1"),
        volume.attempt(StageName.TRAIN, "other", "1"),
        volume.checkpoints(KEY),
    ):
        folder.mkdir(parents=True)
    assert volume.attempts(StageName.TRAIN, KEY) == [volume.attempt(StageName.TRAIN, KEY, name) for name in "12"]


# --- files that are whole --------------------------------------------------------------------------------------------


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    """Every file below a folder is in its manifest, but for what NFS leaves of files that are still open."""
    (tmp_path / "sub").mkdir()
    for name in ("b.bin", "sub/a.bin", ".nfs0001", "sub/.nfs0002"):
        (tmp_path / name).write_text("abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest_of(tmp_path) == (FileEntry("b.bin", 3, sha), FileEntry("sub/a.bin", 3, sha))
    assert [path.name for path in files_below(tmp_path)] == ["b.bin", "a.bin"]


def test_hashing_tells_how_far_it_is(tmp_path: Path) -> None:
    """Large files are hashed chunk by chunk, and every byte is told of once."""
    (tmp_path / "x").write_bytes(b"x" * (9 * 1024 * 1024))
    told: list[int] = []
    sha256_of(tmp_path / "x", told.append)
    assert len(told) > 1
    assert sum(told) == 9 * 1024 * 1024


def test_write_whole_replaces(tmp_path: Path) -> None:
    """The new content stands alone afterwards; nothing is left beside it."""
    for text in ("old", "né\n"):
        write_whole(tmp_path / "x.json", text)
    assert (tmp_path / "x.json").read_bytes() == "né\n".encode()
    assert os.listdir(tmp_path) == ["x.json"]  # noqa: PTH208 - hidden files count


def test_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    """A disk that takes no more bytes leaves the old file as it was and no part of the new one."""
    write_whole(tmp_path / "x.json", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(tmp_path / "x.json", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]  # noqa: PTH208 - hidden files count


def test_write_whose_answer_was_lost_is_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a rename can take effect and still answer that the source is not there; what lies there then decides."""
    rename = Path.replace

    def answer_lost(path: Path, target: Path) -> None:
        rename(path, target)
        raise FileNotFoundError

    monkeypatch.setattr(Path, "replace", answer_lost)
    write_whole(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"

    def not_done(_path: Path, target: Path) -> None:
        target.write_text("theirs")
        raise FileNotFoundError

    monkeypatch.setattr(Path, "replace", not_done)
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "y.json", "mine")


# --- publishing ------------------------------------------------------------------------------------------------------


def _made(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    return folder


def test_publishing_moves_the_folder(tmp_path: Path) -> None:
    """What was made gets its final name in one step."""
    assert publish(_made(tmp_path / "made", "mine"), tmp_path / "deep" / "final", lambda: False)
    assert (tmp_path / "deep" / "final" / "result.json").read_text() == "mine"
    assert not (tmp_path / "made").exists()


def test_loser_of_a_race_takes_the_winners(tmp_path: Path) -> None:
    """Who comes second removes their own work and uses what is there."""
    _made(tmp_path / "final", "theirs")
    assert not publish(_made(tmp_path / "made", "mine"), tmp_path / "final", lambda: True)
    assert (tmp_path / "final" / "result.json").read_text() == "theirs"
    assert not (tmp_path / "made").exists()


def test_invalid_result_is_set_aside(tmp_path: Path) -> None:
    """A broken folder in the final place is moved away, each time under a name of its own, and never deleted."""
    final = tmp_path / "final"
    _made(final, "broken 1")
    for turn in ("broken 2", "mine"):
        assert publish(_made(tmp_path / "made", turn), final, lambda: False)
    assert (final / "result.json").read_text() == "mine"
    aside = sorted((folder / "result.json").read_text() for folder in tmp_path.glob("final.broken-*"))
    assert aside == ["broken 1", "broken 2"]


def test_file_in_the_final_place_is_set_aside(tmp_path: Path) -> None:
    """A file where the folder belongs is no obstacle either."""
    (tmp_path / "final").write_text("?")
    assert publish(_made(tmp_path / "made", "mine"), tmp_path / "final", lambda: False)
    assert (tmp_path / "final" / "result.json").read_text() == "mine"


def test_rename_whose_answer_was_lost_is_success(tmp_path: Path) -> None:
    """On NFS a rename can take effect and still answer that the source is not there."""
    _made(tmp_path / "final", "mine")
    assert publish(tmp_path / "made", tmp_path / "final", lambda: True)


def test_nothing_made_is_an_error(tmp_path: Path) -> None:
    """Publishing what is not there, with nothing valid in its place, fails."""
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "made", tmp_path / "final", lambda: False)


# --- which volume it is ----------------------------------------------------------------------------------------------


def test_identity_stays_and_is_the_volumes_own(tmp_path: Path) -> None:
    """Whoever asks gets what the first was given; another volume has another."""
    one, other = Volume(tmp_path / "one"), Volume(tmp_path / "other")
    identity = one.identity()
    assert re.fullmatch("[0-9a-f]{16}", identity)
    assert Volume(tmp_path / "one").identity() == identity
    assert other.identity() != identity
    assert [path.name for path in (tmp_path / "one" / "stages").iterdir()] == ["identity"]


def test_identity_is_one_for_all_who_ask_at_once(tmp_path: Path) -> None:
    """Programs that begin at the same moment on a new volume agree."""
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: Volume(tmp_path).identity(), range(32)))
    assert len(found) == 1
