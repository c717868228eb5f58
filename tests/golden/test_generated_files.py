"""The generated files are what their sources make of them, and the check of it can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from support.generator import EXAMPLE, GOLDEN_KEYS, GOLDEN_MANIFESTS, ROOT, generate
from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.kube_yaml import KubeLoader
from tunesmith.api.parse import parse_job

ONE = "03-full-zero3"
"""The example of the copies: to make the files of all of them each time would take long, and show no more."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the generated files are made from, and of the files themselves, with one example."""
    for name in ("docs", "charts/tunesmith/files"):
        shutil.copytree(ROOT / name, tmp_path / name)
    one = f"examples/{ONE}/finetunejob.yaml"
    of_one = (GOLDEN_KEYS / f"{ONE}.json", GOLDEN_MANIFESTS / f"{ONE}.yaml", GOLDEN_MANIFESTS / "everything.yaml")
    for file in (one, *of_one):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    assert check(tmp_path) == 0
    return tmp_path


def check(root: Path) -> int:
    code: int = generate.main(["--check"], root)
    return code


def test_the_committed_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody edits a generated file or forgets to make it again."""
    code = check(ROOT)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "charts/tunesmith/files/tunesmith.dev_finetunejobs.yaml",
        "docs/api.md",
        f"tests/golden/keys/{ONE}.json",
    ],
)
def test_an_edited_file_is_shown_and_refused(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An edit of a generated file is shown as a difference, ends with 1 and says what to run."""
    path = copy / name
    path.write_text(path.read_text(encoding="utf-8") + "an edit\n", encoding="utf-8")
    assert check(copy) == 1
    told = capsys.readouterr().out
    assert f"--- {name} (there)" in told
    assert "-an edit" in told
    assert "run `make generate`" in told


def test_an_edited_section_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed line inside a generated section is found; a page without the section's marks is an error."""
    page = copy / "docs/architecture.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| 65 |", "| 66 |"), encoding="utf-8")
    assert check(copy) == 1
    assert "-| 66 |" in capsys.readouterr().out
    page.write_text(text.replace("<!-- end of exit codes -->", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="end of exit codes"):
        check(copy)


def test_generating_mends_everything(copy: Path) -> None:
    """`make generate` writes what is missing or wrong and removes the keys of an example that is gone."""
    left_over = copy / GOLDEN_KEYS / "99-gone.json"
    left_over.write_text("{}", encoding="utf-8")
    (copy / "docs/api.md").unlink()
    shutil.rmtree(copy / "charts")
    assert check(copy) == 1
    assert generate.main([], copy) == 0
    assert check(copy) == 0
    assert not left_over.exists()


def test_a_long_difference_is_cut(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is wholly different is shown in part, with how much was left out."""
    (copy / "docs/api.md").write_text("", encoding="utf-8")
    assert check(copy) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) < 50
    assert any(line.startswith("... and ") and line.endswith(" lines more") for line in told)


def test_the_crd_file_is_what_the_command_prints() -> None:
    """The committed CRD holds, as kubectl reads it, what `tunesmith crd` prints."""
    text = (ROOT / generate.CRD).read_text(encoding="utf-8")
    assert text.startswith("# Generated ")
    assert yaml.load(text, KubeLoader) == custom_resource_definition()  # noqa: S506 - it reads plain data only


def test_the_reference_names_every_field() -> None:
    """The example at the top of docs/api.md is valid and holds every field, and so do the tables."""
    example, reference = EXAMPLE.read_text(encoding="utf-8"), (ROOT / generate.API_REFERENCE).read_text("utf-8")
    parse_job(example)
    assert f"```yaml\n{example}```" in reference
    schema = FineTuneJob.model_json_schema(by_alias=True)
    objects = [schema, *(item for item in schema["$defs"].values() if "properties" in item)]
    fields = {name for item in objects for name in item["properties"]}
    assert len(fields) > 60
    assert {name for name in fields if f"{name}:" not in example} == set()
    assert {name for name in fields if f"| `{name}` |" not in reference} == set()
