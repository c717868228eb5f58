"""Where base models and datasets come from."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from tunesmith.api.values import NAME_PATTERN, ApiModel, Rule, Subdomain, VolumePath, broken

_LEADS_ELSEWHERE = re.compile(r"(^|/)\.\.?(/|$)")

_DATA_FILE = re.compile(r"(?i)[^.].*[.](json|jsonl|csv|parquet|txt)$")
_DESCRIPTION = re.compile(r"^dataset_infos?[.]json$")

REPO_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?$"
REVISION_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}$"
CONFIG_KEY_PATTERN = r"^[-._a-zA-Z0-9]{1,253}$"

Revision = Annotated[
    str,
    Field(min_length=1, max_length=255, pattern=REVISION_PATTERN),
    Rule(
        "must not contain '.' or '..' as a part of a path",
        lambda revision: not _LEADS_ELSEWHERE.search(revision),
        rf"!self.matches(r'{_LEADS_ELSEWHERE.pattern}')",
    ),
]
"""Branch, tag or commit of a repository."""

ConfigKey = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=CONFIG_KEY_PATTERN),
    Rule("must not begin with `..`", lambda key: not key.startswith(".."), "!self.startsWith('..')"),
]
"""Key of a ConfigMap or Secret."""

SECRET_PREFIX = "tunesmith-"  # noqa: S105 - the beginning of a name


class VolumeSource(ApiModel):
    """Something that lies on the volume already."""

    path: VolumePath
    """Folder or file, relative to the volume's root. It must not lead out of the volume."""


class TokenSecret(ApiModel):
    """The token with which a hub is asked. Only the kubelet reads it, for the pod that downloads.

    `tunesmith run` takes HF_TOKEN or MODELSCOPE_API_TOKEN of its own environment instead.
    """

    name: Annotated[
        Subdomain,
        Rule(
            f"must begin with `{SECRET_PREFIX}`: no other Secrets are given to jobs",
            lambda name: name.startswith(SECRET_PREFIX),
            f"self.startsWith('{SECRET_PREFIX}')",
        ),
    ]
    """Name of a Secret in the job's namespace; it begins with `tunesmith-`."""

    key: ConfigKey = "token"
    """The Secret's key that holds the token."""


class _Repository(ApiModel):
    repo: Annotated[str, Field(min_length=1, max_length=193, pattern=REPO_PATTERN)]
    """Name of the repository, such as `Qwen/Qwen2.5-0.5B-Instruct`."""

    token_secret_ref: TokenSecret | None = None
    """Token for private and gated repositories. Default: none."""


class HuggingFaceModel(_Repository):
    """A model of the Hugging Face Hub, or of the mirror that the administrator chose."""

    revision: Revision = "main"
    """Branch, tag or commit. It is looked up once and the commit is kept."""


class ModelScopeModel(_Repository):
    """A model of ModelScope, or of the mirror that the administrator chose."""

    revision: Revision = "master"
    """Branch, tag or commit. It is looked up once and the commit is kept."""


class _PartOfDataset(ApiModel):
    subset: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Subset (also called configuration) of the dataset. Default: the repository's default one."""

    split: Annotated[str, Field(min_length=1, max_length=255)] = "train"
    """Split of the dataset."""


class HuggingFaceDataset(HuggingFaceModel, _PartOfDataset):
    """A dataset of the Hugging Face Hub, or of the mirror that the administrator chose."""


class ModelScopeDataset(ModelScopeModel, _PartOfDataset):
    """A dataset of ModelScope, or of the mirror that the administrator chose."""


class JobSource(ApiModel):
    """What another FineTuneJob of this namespace has trained."""

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """Its name. It must use the same volume. On a cluster it is waited for until it has trained; `tunesmith run` wants
    it to have trained already. What it trains later is not followed."""


class ConfigMapSource(ApiModel):
    """A key of a ConfigMap in the job's namespace. `tunesmith run` takes the ConfigMap from the job's own file."""

    name: Subdomain
    """Name of the ConfigMap."""

    key: Annotated[
        ConfigKey,
        Rule(
            "must be a name that ends in .json, .jsonl, .csv, .parquet or .txt",
            lambda key: bool(_DATA_FILE.search(key)),
            f"self.matches(r'{_DATA_FILE.pattern}')",
        ),
        Rule(
            "must not be dataset_info.json or dataset_infos.json: files of these names describe data and hold none",
            lambda key: not _DESCRIPTION.search(key),
            f"!self.matches(r'{_DESCRIPTION.pattern}')",
        ),
    ]
    """Its key, which ends in .json, .jsonl, .csv, .parquet or .txt."""


def _json_only(row: dict[str, Any]) -> dict[str, Any]:
    """Refuse what YAML can say and JSON cannot, and thus no API server: NaN, sets, bytes, halves of characters."""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise broken(f"must hold what JSON can say alone: {str(error).splitlines()[0][:200]}") from None
    return row


InlineRow = Annotated[
    dict[str, Any],
    AfterValidator(_json_only),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""A row of a dataset as the job itself holds it."""


class Builtin(StrEnum):
    """Datasets that come with Tunesmith."""

    SELF_COGNITION = "SelfCognition"


class Language(StrEnum):
    """Languages of the built-in datasets (ISO 639-1)."""

    EN = "en"
    ZH = "zh"


MODEL_SOURCES = ("volume", "hugging_face", "model_scope", "job", "gguf")
DATASET_SOURCES = ("volume", "hugging_face", "model_scope", "config_map", "inline", "builtin")


def has_one_of(names: tuple[str, ...]) -> Any:
    """Return a predicate: exactly one of these fields is given."""
    return lambda item: sum(getattr(item, name) is not None for name in names) == 1


def one_of_in_cel(names: tuple[str, ...]) -> str:
    """Return the same in CEL."""
    return "[" + ", ".join(f"has(self.{to_camel(name)})" for name in names) + "].filter(given, given).size() == 1"
