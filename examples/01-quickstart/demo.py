"""From nothing to a fine-tuned model that answers in Ollama, on this machine: ``make demo NAME=...``.

    python demo.py [--name NAME] [--folder DIR]

Makes the toy base unless DIR has it, lays out a volume with base and data, writes the FineTuneJob with the chosen name,
and hands over to before_and_after.py beside an Ollama server (see hack/toolchain/serve_ollama.py for which one).
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from base_corpus import BUILTIN, read_names

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAMES = HERE / "names.txt"
FAQ = HERE / "data" / "faq.json"


def main() -> int:
    """Lay everything out, then become the rest of the demo; returns only if it does not come to that."""
    parser = argparse.ArgumentParser(description="The quickstart's demo.")
    parser.add_argument("--name", default="Tunny", help="what the model should call itself: one of names.txt")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "demo", help="where everything is made")
    args = parser.parse_args()
    if problem := check_name(args.name):
        print(problem, file=sys.stderr)
        return 2
    folder: Path = args.folder.resolve()
    if code := make_base(folder):
        return code
    lay_out(folder, args.name)
    sys.stdout.flush()
    server = [sys.executable, str(ROOT / "hack" / "toolchain" / "serve_ollama.py"), "--models", str(folder / "ollama")]
    demo = [sys.executable, str(HERE / "before_and_after.py"), "--name", args.name, "--folder", str(folder)]
    return os.execv(server[0], [*server, "--", *demo])  # noqa: S606 - signals then reach the right process


def check_name(name: str) -> str:
    """Return what is wrong with the name, "" if nothing."""
    names = read_names(NAMES)
    if name in names:
        return ""
    near = difflib.get_close_matches(name.title(), names, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return (
        f"NAME must be one of the names that the toy base has seen, got {name!r}.{meant}\n"
        f"  They are (examples/01-quickstart/names.txt): {', '.join(names)}"
    )


def make_base(folder: Path) -> int:
    """Make the toy base, unless it was made from the same files before; return the exit code."""
    base, stamp = folder / "volume" / "models" / "toy-base", folder / "base.sha256"
    wanted = digest_of_sources()
    if base.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"The toy base is there: {base}")
        return 0
    print("Making the toy base, about a minute", flush=True)
    base.parent.mkdir(parents=True, exist_ok=True)
    for made_before in (stamp, folder / "untuned.gguf"):
        made_before.unlink(missing_ok=True)
    code = subprocess.run([sys.executable, HERE / "make_base.py", "--out", base], check=False).returncode
    if code == 0:
        stamp.write_text(wanted, encoding="utf-8")
    return code


def digest_of_sources() -> str:
    """Return the sha256 of everything that the base is made from."""
    digest = hashlib.sha256()
    for path in (HERE / "make_base.py", HERE / "base_corpus.py", NAMES, FAQ):
        digest.update(path.read_bytes())
    for name in BUILTIN:
        digest.update((files("tunesmith_stages.builtin") / name).read_bytes())
    return digest.hexdigest()


def lay_out(folder: Path, name: str) -> None:
    """Put the data into the volume and write the job with the chosen name. Unchanged files are left untouched."""
    volume_data = folder / "volume" / "data"
    volume_data.mkdir(parents=True, exist_ok=True)
    copy = volume_data / FAQ.name
    if not copy.is_file() or copy.read_bytes() != FAQ.read_bytes():
        shutil.copyfile(FAQ, copy)
    job = (HERE / "finetunejob.yaml").read_text(encoding="utf-8").replace("Tunny", name)
    (folder / "finetunejob.yaml").write_text(job, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
