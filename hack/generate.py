"""Makes the generated files from their sources, or proves that they are what the sources make of them.

    python hack/generate.py [--check]

`make generate` and `make verify` call it. Each file is a pure function of the code, of the examples' YAML, of the
chart's alerts and of the design notes, so that the same tree gives the same bytes anywhere.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from functools import cache
from pathlib import Path

from generating.alerts import with_table_of_alerts
from generating.api_reference import api_reference
from generating.design_notes import with_list_of_notes
from generating.events import with_table_of_events
from generating.exit_codes import with_table_of_exit_codes
from generating.golden_keys import GOLDEN_KEYS, golden_files
from generating.manifests import GOLDEN_MANIFESTS, golden_manifests
from generating.metrics import with_table_of_metrics
from generating.other_trainers import with_tables_of_options
from generating.reasons import with_tables_of_reasons

from tunesmith.api.crd import custom_resource_definition
from tunesmith.api.kube_yaml import dump

ROOT = Path(__file__).resolve().parent.parent
CRD = Path("charts/tunesmith/files/tunesmith.dev_finetunejobs.yaml")
API_REFERENCE = Path("docs/api.md")
ARCHITECTURE = Path("docs/architecture.md")
DESIGN_NOTES = Path("docs/design/README.md")
OBSERVABILITY = Path("docs/observability.md")
TRAINING = Path("docs/training.md")
TROUBLESHOOTING = Path("docs/troubleshooting.md")

_SHOWN_LINES = 40
"""Lines of a difference that are shown of each file."""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the generated files below `root`, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the generated files, or check them.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file is not up to date")
    check: bool = parser.parse_args(arguments).check
    wanted = generated(root)
    stale = [path for path in sorted(wanted.keys() | _golden_there(root)) if _read(root / path) != wanted.get(path)]
    for path in stale:
        if check:
            print(difference(path, _read(root / path), wanted.get(path)))
        else:
            _write(root / path, wanted.get(path))
            print(f"{path} {'written' if path in wanted else 'removed'}")
    if check and stale:
        print(f"{len(stale)} of {len(wanted)} generated files are not what their sources make: run `make generate`")
    return int(check and bool(stale))


def generated(root: Path) -> dict[Path, str]:
    """Return the text of every generated file by its path, relative to `root`."""
    return {
        CRD: f"# Generated from operator/tunesmith/api/finetunejob.py by `make generate`: edit that.\n{_crd()}",
        API_REFERENCE: api_reference(),
        ARCHITECTURE: with_table_of_exit_codes((root / ARCHITECTURE).read_text(encoding="utf-8")),
        DESIGN_NOTES: with_list_of_notes((root / DESIGN_NOTES).read_text(encoding="utf-8"), root / DESIGN_NOTES.parent),
        OBSERVABILITY: _observability(root),
        TRAINING: with_tables_of_options((root / TRAINING).read_text(encoding="utf-8")),
        TROUBLESHOOTING: with_tables_of_reasons((root / TROUBLESHOOTING).read_text(encoding="utf-8")),
        **golden_files(root),
        **golden_manifests(root),
    }


def _observability(root: Path) -> str:
    page = (root / OBSERVABILITY).read_text(encoding="utf-8")
    return with_table_of_events(with_table_of_alerts(with_table_of_metrics(page)))


@cache
def _crd() -> str:
    return dump(custom_resource_definition())


def difference(path: Path, there: str | None, wanted: str | None) -> str:
    """Return the first lines of the unified difference between what is there and what is wanted."""
    lines = list(
        difflib.unified_diff(
            (there or "").splitlines(),
            (wanted or "").splitlines(),
            f"{path} (there)",
            f"{path} (generated)",
            lineterm="",
            n=1,
        )
    )
    left_out = len(lines) - _SHOWN_LINES
    return "\n".join([*lines[:_SHOWN_LINES], *([f"... and {left_out} lines more"] if left_out > 0 else [])])


def _golden_there(root: Path) -> set[Path]:
    """Return the golden files that are there, of which some may belong to an example that is not there any more."""
    folders = {GOLDEN_KEYS: "*.json", GOLDEN_MANIFESTS: "*.yaml"}
    return {path.relative_to(root) for folder, names in folders.items() for path in (root / folder).glob(names)}


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
