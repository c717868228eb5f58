"""The Dockerfiles of the images, the locks that they install, and when the build program builds again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith import __version__
from tunesmith.core.manifests.environment import places

sys.path.append(str(Path(__file__).parents[2] / "hack" / "images"))  # scripts, not packages that are installed
sys.path.append(str(Path(__file__).parents[2] / "hack" / "toolchain"))

from dockerfile import copied, inputs_digest
from llama_cpp import pinned_in

from tunesmith_stages.program import StageError
from tunesmith_stages.tools import LLAMA_CPP_VERSION

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "stages")
TORCH_BUILD = re.compile(r"torch|triton|(nvidia|cuda)-[a-z0-9-]+")


def dockerfile(image: str) -> Path:
    return ROOT / "images" / image / "Dockerfile"


def instructions(image: str) -> list[str]:
    """Return the instructions of a Dockerfile, each on one line."""
    text = re.sub(r"^#.*\n", "", dockerfile(image).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def last_stage(image: str) -> list[str]:
    lines = instructions(image)
    return lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]


def pins(lock: str) -> dict[str, str]:
    """Return what a lock pins: by name, everything from the name to the last hash. A name may be there twice."""
    found: dict[str, str] = {}
    for entry in re.findall(r"^[a-z0-9].*(?:\n .*)*", (ROOT / "requirements" / lock).read_text(), re.MULTILINE):
        found[entry.partition("==")[0]] = found.get(entry.partition("==")[0], "") + entry
    return found


# --- Dockerfiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_a_user_by_number(image: str) -> None:
    """The image runs as a user that is not root; Kubernetes can tell only if it is a number."""
    users = [line.removeprefix("USER ") for line in instructions(image) if line.startswith("USER ")]
    assert users == [line.removeprefix("USER ") for line in last_stage(image) if line.startswith("USER ")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("image", IMAGES)
def test_base_image_is_an_argument(image: str) -> None:
    """Every stage starts from the base image of the builder's choice, or from another stage."""
    lines = instructions(image)
    assert lines[0].startswith("ARG BASE_IMAGE=")
    stages = {"${BASE_IMAGE}"}
    for words in (line.split() for line in lines if line.startswith("FROM ")):
        assert words[1] in stages
        stages |= set(words[3:])


@pytest.mark.parametrize("image", IMAGES)
def test_locks_come_before_source(image: str) -> None:
    """A change of our source repeats no installation: what takes long comes before it."""
    lines = last_stage(image)
    first = next(number for number, line in enumerate(lines) if re.match(r"COPY (operator|images)/tunesmith", line))
    packages = [number for number, line in enumerate(lines) if re.search(r"requirements/|--from=|pip install", line)]
    assert packages
    assert max(packages) < first


@pytest.mark.parametrize("image", IMAGES)
def test_version_label(image: str) -> None:
    """An image that somebody builds without arguments says the version of its source."""
    assert f"ARG VERSION={__version__}" in instructions(image)
    assert 'org.opencontainers.image.version="${VERSION}"' in " ".join(last_stage(image))


def test_operator_starts_the_installed_command() -> None:
    """The operator's image starts what an installation of the package would call `tunesmith`."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
        "tunesmith"
    ].partition(":")
    assert rf"from {module} import {function}\n{function}()" in " ".join(last_stage("operator"))
    assert 'ENTRYPOINT ["tunesmith"]' in last_stage("operator")


def test_context_holds_nothing_else() -> None:
    """No history, no environment, no tests and no secrets of a working copy are sent to a builder."""
    first, *others = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    allowed = {line[1:] for line in others if line.startswith("!")}
    needed = {path.relative_to(ROOT).as_posix() for image in IMAGES for path in copied(dockerfile(image), ROOT, {})}
    assert {folder for folder in allowed if any(path.startswith(f"{folder}/") for path in needed)} == allowed
    assert "**/.*" in others, "hidden files, wherever they are"


@pytest.mark.parametrize("image", IMAGES)
def test_context_holds_what_is_copied(image: str) -> None:
    """Nothing that a Dockerfile copies is kept from the builder by .dockerignore, and nothing hidden is sent."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in copied(dockerfile(image), ROOT, {}):
        name = path.relative_to(ROOT).as_posix()
        assert any(name.startswith(f"{folder}/") for folder in allowed), name
        assert not any(part.startswith(".") for part in name.split("/")), name


def test_llama_cpp_is_built_from_what_is_copied(tmp_path: Path) -> None:
    """The stage that compiles llama.cpp has every module that the toolchain's program imports."""
    lines = instructions("stages")
    begin = lines.index("FROM system AS llama-cpp-built")
    for line in lines[begin + 1 :]:
        if line.startswith("FROM "):
            break
        if line.startswith("COPY ") and "$" not in line:
            *sources, target = line.split()[1:]
            folder = tmp_path / target.strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for source in (path for name in sources for path in ROOT.glob(name) if not name.startswith("--")):
                if source.is_dir():  # what is in it is copied, as Docker does it
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                else:
                    shutil.copy(source, folder)
    subprocess.run(
        [sys.executable, "-S", tmp_path / "build" / "llama_cpp.py", "--help"],  # and no package: there is none either
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "build" / "images")},
    )


def test_places_are_those_of_the_pods() -> None:
    """Who runs the image by hand finds HOME, caches and temporary files where the operator's pods have them."""
    variables = next(line for line in last_stage("stages") if line.startswith("ENV HOME="))
    assert places().items() <= dict(word.split("=", 1) for word in variables.split()[1:]).items()


# --- locks -----------------------------------------------------------------------------------------------------------


def test_torch_layer_is_part_of_the_lock() -> None:
    """What the layer of PyTorch installs is what the whole lock says, so the next layer installs none of it again."""
    whole = pins("stages.txt")
    layer = pins("torch.txt")
    assert {name: whole.get(name) for name in layer} == layer


def test_torch_layer_has_all_that_the_next_one_leaves_out() -> None:
    """The second layer skips PyTorch and CUDA libraries, whichever build the first one chose; none is lost between."""
    pattern = next(line for line in instructions("stages") if "sed -nE" in line)
    assert f"s/^({TORCH_BUILD.pattern})==.*/" in pattern
    left_out = {name for name in pins("stages.txt") if TORCH_BUILD.fullmatch(name)}
    assert {"torch", "triton"} < left_out
    assert left_out <= set(pins("torch.txt"))


@pytest.mark.parametrize("lock", ["operator.txt", "stages.txt", "torch.txt", "uv.txt"])
def test_everything_is_pinned_by_hash(lock: str) -> None:
    """Whatever an image installs is the file that was locked."""
    assert [name for name, entry in pins(lock).items() if "--hash=sha256:" not in entry] == []


def test_operator_has_no_torch() -> None:
    """The operator's image stays small."""
    assert [name for name in pins("operator.txt") if TORCH_BUILD.fullmatch(name)] == []


def test_uv_is_the_same_everywhere() -> None:
    """Images are installed with the uv that made the locks."""
    told = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert told
    assert pins("uv.txt")["uv"].startswith(f"uv=={told[1]} ")


# --- the version of llama.cpp ----------------------------------------------------------------------------------------


def test_pinned_llama_cpp_is_the_default() -> None:
    """The image has the llama.cpp that the stages are tested with, unless the builder wants another."""
    assert "ARG LLAMA_CPP_REQUIREMENTS=hack/toolchain/llama_cpp.txt" in instructions("stages")
    assert pinned_in(ROOT / "hack" / "toolchain" / "llama_cpp.txt") == LLAMA_CPP_VERSION


@pytest.mark.parametrize(
    ("line", "version"),
    [
        pytest.param("llama-cpp-python==0.3.40 --hash=sha256:00", "0.3.40", id="on one line"),
        pytest.param(
            "# why\nllama-cpp-python==0.4.0rc1 \\\n    --hash=sha256:00", "0.4.0rc1", id="as pip compile writes it"
        ),
        pytest.param("llama-cpp-python>=0.3 --hash=sha256:00", None, id="a range"),
        pytest.param("gguf==0.19.0 --hash=sha256:00", None, id="something else"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_pinned_in(tmp_path: Path, line: str, version: str | None) -> None:
    """The release to build is read from the requirements file, and a file that names none is refused."""
    (tmp_path / "mine.txt").write_text(f"{line}\n")
    if version:
        assert pinned_in(tmp_path / "mine.txt") == version
    else:
        with pytest.raises(StageError, match="pins no release"):
            pinned_in(tmp_path / "mine.txt")


# --- when an image is built again ------------------------------------------------------------------------------------


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Return a folder with a Dockerfile that copies a file by argument, and a folder."""
    (tmp_path / "Dockerfile").write_text(
        "ARG LOCK=lock.txt\nFROM x AS y\nCOPY --chmod=644 ${LOCK} /\nCOPY source \\\n  /source\nCOPY --from=y /a /b\n"
    )
    (tmp_path / "lock.txt").write_text("a==1")
    (tmp_path / "other.txt").write_text("a==2")
    (tmp_path / "source" / "__pycache__").mkdir(parents=True)
    (tmp_path / "source" / "a.py").write_text("1")
    return tmp_path


def digest(context: Path, *, lock: str = "lock.txt", parent: str = "id") -> str:
    return inputs_digest(context / "Dockerfile", context, {"LOCK": lock}, [parent])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda at: (at / "lock.txt").write_text("a==3"), id="a file that is copied"),
        pytest.param(lambda at: (at / "source" / "b.py").write_text(""), id="a new file in a folder"),
        pytest.param(lambda at: (at / "source" / "a.py").rename(at / "source" / "c.py"), id="a name"),
        pytest.param(lambda at: (at / "source" / "a.py").chmod(0o755), id="executable now"),
        pytest.param(lambda at: (at / "Dockerfile").open("a").write("USER 1\n"), id="the Dockerfile"),
    ],
)
def test_built_again_after(context: Path, change: Callable[[Path], object]) -> None:
    """An image is built again when something that it is made of is another."""
    before = digest(context)
    change(context)
    assert digest(context) != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda at: (at / "other.txt").write_text("a==3"), id="a file that is not copied"),
        pytest.param(lambda at: (at / "source" / "__pycache__" / "a.pyc").write_text(""), id="bytecode"),
        pytest.param(lambda at: os.utime(at / "source" / "a.py", (1, 1)), id="a time"),
    ],
)
def test_not_built_again_after(context: Path, change: Callable[[Path], object]) -> None:
    """An image is left alone, and no cluster has to load it again, when nothing in it would change."""
    before = digest(context)
    change(context)
    assert digest(context) == before


def test_arguments_and_base_count(context: Path) -> None:
    """Another argument and another base image make another image, even where the files are the same."""
    (context / "other.txt").write_text("a==1")
    assert len({digest(context), digest(context, lock="other.txt"), digest(context, parent="other")}) == 3


def test_copied_file_must_be_there(context: Path) -> None:
    """A Dockerfile that copies what is not there is found out before the build."""
    (context / "lock.txt").unlink()
    with pytest.raises(FileNotFoundError):
        digest(context)
