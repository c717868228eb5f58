from __future__ import annotations

import time

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.fetch.splits import choose
from tunesmith_stages.program import StageError


def card(configs: str) -> str:
    return f"---\nlicense: mit\nconfigs:\n{configs}---\n# About\n"


TWO = card(
    "- config_name: en\n  data_files:\n  - split: train\n    path: en/train-*.parquet\n"
    "  - split: test\n    path: en/test.jsonl\n"
    "- config_name: fr\n  default: true\n  data_files: fr/*.jsonl\n"
)

EN = ["en/train-1.parquet", "en/test.jsonl"]

CHOSEN: dict[str, tuple[list[str], str, str | None, str, list[str]]] = {
    "one file": (["data.json", "README.md"], "", None, "train", ["data.json"]),
    "all files, where no name tells a split": (["a.jsonl", "b.jsonl"], "", None, "train", ["a.jsonl", "b.jsonl"]),
    "by a word in the name": (["train.jsonl", "test.jsonl"], "", None, "train", ["train.jsonl"]),
    "a word for another one": (["train.csv", "dev.csv"], "", None, "validation", ["dev.csv"]),
    "by a word within the name": (["my-train_v2.json", "my-eval.json"], "", None, "train", ["my-train_v2.json"]),
    "by a folder": (["training/a.json", "test/a.json"], "", None, "train", ["training/a.json"]),
    "a word within a word is none": (
        ["restrained.json", "latest.json"],
        "",
        None,
        "train",
        ["latest.json", "restrained.json"],
    ),
    "shards": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        "",
        None,
        "train",
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
    ),
    "shards of a split with a name of its own": (
        ["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"],
        "",
        None,
        "train_sft",
        ["data/train_sft-00000-of-00001.parquet"],
    ),
    "notes are no data": (
        ["train.json", "LICENSE.txt", "requirements.txt", ".x.json"],
        "",
        None,
        "train",
        ["train.json"],
    ),
    "text": (["story.txt", "README.md", "LICENSE.txt"], "", None, "train", ["story.txt"]),
    "a subset that is a folder": (["en/a.json", "fr/a.json"], "", "fr", "train", ["fr/a.json"]),
    "what the card says": (
        ["en/train-1.parquet", "en/test.jsonl", "en/x.json"],
        TWO,
        "en",
        "train",
        ["en/train-1.parquet"],
    ),
    "another split of the card": (["en/train-1.parquet", "en/test.jsonl"], TWO, "en", "test", ["en/test.jsonl"]),
    "the card's default": (["fr/a.jsonl", "fr/b/c.jsonl"], TWO, None, "train", ["fr/a.jsonl"]),
    "a list of patterns": (
        ["a/1.json", "b/c/2.json", "d.json"],
        card("- config_name: default\n  data_files: ['a/*.json', 'b/**/*.json']\n"),
        None,
        "train",
        ["a/1.json", "b/c/2.json"],
    ),
    "all below a folder": (
        ["a/1.json", "a/b/2.json", "c.json"],
        card("- data_files:\n  - {split: train, path: 'a/**'}\n"),
        None,
        "train",
        ["a/1.json", "a/b/2.json"],
    ),
    "a folder of the card": (
        ["v1/train.json", "v2/train.json", "v2/test.json"],
        card("- config_name: default\n  data_dir: v2\n"),
        None,
        "train",
        ["v2/train.json"],
    ),
    "a card without data files": (["train.json"], "---\nlicense: mit\n---\n", None, "train", ["train.json"]),
    "a card without YAML": (["train.json"], "# Data\n---\nconfigs: 1\n---\n", None, "train", ["train.json"]),
    "stars in several parts of a path": (
        ["a-1-x/b-2-y.json", "a-1-x/c.json"],
        card("- data_files: 'a*-*/b*-*.json'\n"),
        None,
        "train",
        ["a-1-x/b-2-y.json"],
    ),
    "classes of signs": (
        ["a1.json", "a2.json", "ab.json", "a+.json"],
        card("- data_files: ['a[0-9].json', 'a[!0-9b].json']\n"),
        None,
        "train",
        ["a+.json", "a1.json", "a2.json"],
    ),
    "names that YAML takes for something else": (
        ["a.json", "b.json"],
        card("- config_name: 2024\n  data_files: [{split: no, path: a.json}, {split: train, path: b.json}]\n"),
        "2024",
        "train",
        ["b.json"],
    ),
    "signs that mean something in patterns": (["a[1]+.json"], "", None, "train", ["a[1]+.json"]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_files_of_a_split(name: str) -> None:
    """The card's word counts; without it names and folders tell, as they do for the hub's own library."""
    names, text, subset, split, chosen = CHOSEN[name]
    assert choose(names, text, subset, split, "the dataset") == chosen


REFUSED: dict[str, tuple[list[str], str, str | None, str, str, str]] = {
    "no such split": (["train.json", "test.json"], "", None, "dev", "SplitNotFound", "it has test, train"),
    "no such split by the card": (
        ["en/train-1.parquet", "en/test.jsonl"],
        TWO,
        "en",
        "x",
        "SplitNotFound",
        "test, train",
    ),
    "no such subset": (["fr/a.jsonl"], TWO, "de", "train", "SubsetNotFound", "it has en, fr"),
    "no such folder": (["en/a.json", "fr/a.json"], "", "de", "train", "SubsetNotFound", "it has en, fr"),
    "several subsets, no default": (
        ["a.json"],
        card("- {config_name: en, data_files: a.json}\n- {config_name: fr, data_files: a.json}\n"),
        None,
        "train",
        "SubsetNotFound",
        "en, fr",
    ),
    "a script alone": (["data.py", "README.md"], "", None, "train", "LoadingScript", "data.py"),
    "pictures": (["a.png", "b.zip"], "", None, "train", "UnknownFileType", "has no .json"),
    "nothing": ([], "", None, "train", "UnknownFileType", "has no .json"),
    "the card names an archive": (
        ["a.zip"],
        card("- data_files: a.zip\n"),
        None,
        "train",
        "UnknownFileType",
        "'a.zip'",
    ),
    "the card names what is not there": (
        ["a.json"],
        card("- data_files: b*.json\n"),
        None,
        "train",
        "BadDatasetCard",
        "b*",
    ),
    "the card leads elsewhere": (
        ["a.json"],
        card("- data_files: https://example.org/a.json\n"),
        None,
        "train",
        "BadDatasetCard",
        "https://example.org",
    ),
    "the card leads up": (["a.json"], card("- data_files: ../a.json\n"), None, "train", "BadDatasetCard", "../a.json"),
    "the card's files are numbers": (["a.json"], card("- data_files: [1]\n"), None, "train", "BadDatasetCard", "a int"),
    "a class of signs that is none": (
        ["a.json"],
        card("- data_files: '[z-a].json'\n"),
        None,
        "train",
        "BadDatasetCard",
        "that are not there",
    ),
    "YAML that is none": (["a.json"], "---\nconfigs: [\n---\n", None, "train", "BadDatasetCard", "cannot be read"),
    "YAML that makes objects": (
        ["a.json"],
        "---\nconfigs: !!python/object/apply:os.system ['true']\n---\n",
        None,
        "train",
        "BadDatasetCard",
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """What cannot be chosen is refused with what there is; code is not run, and no address of a card is followed."""
    names, text, subset, split, reason, words = REFUSED[name]
    with pytest.raises(StageError) as caught:
        choose(names, text, subset, split, "the dataset")
    assert caught.value.reason == reason
    assert caught.value.code in {ExitCode.BAD_CONFIG, ExitCode.BAD_DATA}
    assert words in caught.value.message


@pytest.mark.parametrize("name", ["a" * 200 + ".json", "a/" * 400 + "a.json"])
@pytest.mark.parametrize("pattern", ["*a" * 8 + "*b.json", "**/a/" * 8 + "b.json", "**/*a*a/" * 8 + "b.json"])
def test_patterns_are_compared_in_no_time(name: str, pattern: str) -> None:
    """A card cannot keep `fetch` busy for years by a pattern that can be read in many ways."""
    began = time.process_time()
    with pytest.raises(StageError, match="that are not there"):
        choose([name] * 20, card(f"- data_files: '{pattern}'\n"), None, "train", "the dataset")
    assert time.process_time() - began < 2


def test_stars_find_what_comes_late() -> None:
    """What follows a star is found, wherever it is, and however often its beginning comes before."""
    names = ["aab.json", "x/ab/aab/c.json", "x/ab/c.json", "abab-ab.json"]
    for pattern, found in (
        ("*ab.json", ["aab.json", "abab-ab.json"]),
        ("*a*b*.json", ["aab.json", "abab-ab.json"]),
        ("**/a*b/c.json", ["x/ab/aab/c.json", "x/ab/c.json"]),
        ("**/ab/*.json", ["x/ab/c.json"]),
        ("**.json", ["aab.json", "abab-ab.json"]),
        ("**", ["aab.json", "abab-ab.json", "x/ab/aab/c.json", "x/ab/c.json"]),
    ):
        assert choose(names, card(f"- data_files: '{pattern}'\n"), None, "train", "the dataset") == found


def test_aliases_that_explode() -> None:
    """A card whose aliases would unfold to billions of entries is refused, or passed over, at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "---\n" + "\n".join([*lines, "configs: [{data_files: *a11}]"]) + "\n---\n"
    began = time.process_time()
    with pytest.raises(StageError, match="in a way that is not read: a list"):
        choose(["a.json"], text, None, "train", "the dataset")
    assert time.process_time() - began < 2
