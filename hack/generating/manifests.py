"""The Kubernetes objects of the examples, and of a job with everything set, so that nobody changes one unseen."""

from __future__ import annotations

from pathlib import Path

from tunesmith.api.parse import parse_job
from tunesmith.api.settings import parse_settings
from tunesmith.cli.render import documents

GOLDEN_MANIFESTS = Path("tests/golden/manifests")
EVERYTHING = Path(__file__).resolve().parent / "everything"
_COMMENT = "# Generated from {} by `make generate`: what the operator creates for it.\n"


def golden_manifests(root: Path) -> dict[Path, str]:
    """Return the text of the golden file of every example below `root`, and of the job with everything set."""
    files = {
        GOLDEN_MANIFESTS / f"{file.parent.name}.yaml": _COMMENT.format(file.relative_to(root).as_posix())
        + "".join(documents(parse_job(file.read_text(encoding="utf-8"))))
        for file in sorted(root.glob("examples/*/finetunejob.yaml"))
    }
    return {**files, GOLDEN_MANIFESTS / "everything.yaml": _everything()}


def _everything() -> str:
    job = parse_job((EVERYTHING / "finetunejob.yaml").read_text(encoding="utf-8"))
    settings = parse_settings((EVERYTHING / "settings.yaml").read_text(encoding="utf-8"))
    return _COMMENT.format("hack/generating/everything") + "".join(documents(job, settings))
