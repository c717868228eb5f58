"""Put the toy base into Ollama as it is, so that its answers can be compared with the fine-tuned model's.

    python untuned.py --base DIR --gguf FILE --model NAME

FILE is made from the base by llama.cpp's converter unless it is there. The server is the one at OLLAMA_HOST.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tunesmith.local.served import ollama_url
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.convert.run_converter import Task
from tunesmith_stages.ollama import Ollama
from tunesmith_stages.program import StageError
from tunesmith_stages.tools import llama_cpp, run_tool
from tunesmith_stages.volume import sha256_of


def main() -> int:
    """Convert the base if need be, and create the model."""
    parser = argparse.ArgumentParser(description="Put the toy base into Ollama as it is.")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--gguf", type=Path, required=True, help="the converted base; made if it is not there")
    parser.add_argument("--model", required=True, help="its name in Ollama")
    args = parser.parse_args()
    try:
        if not args.gguf.is_file():
            convert(args.base, args.gguf)
        create(args.gguf, args.model)
    except StageError as error:
        print(f"{error.message}\n  → {error.hint}", file=sys.stderr)
        return int(error.code)
    return 0


def convert(base: Path, gguf: Path) -> None:
    """Write the base as a GGUF of 16-bit floats. Its chat template gets the same guard that fine-tuned models get."""
    with tempfile.TemporaryDirectory(dir=gguf.parent) as scratch:
        folder, partial, task = Path(scratch, "base"), Path(scratch, "model.gguf"), Path(scratch, "task.json")
        shutil.copytree(base, folder)
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokenizer["chat_template"] = guarded(tokenizer["chat_template"])
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        wanted = Task(
            converter=str(llama_cpp().converter),
            model=str(folder),
            out=str(partial),
            out_type="F16",
            report=str(Path(scratch, "report.json")),
            add_bos=False,
            end_of_turn=json.loads((base / "config.json").read_text(encoding="utf-8"))["eos_token_id"],
            texts=[],
        )
        task.write_text(json.dumps(dataclasses.asdict(wanted)), encoding="utf-8")
        argv: list[str | Path] = [sys.executable, "-P", "-m", "tunesmith_stages.convert.run_converter", task]
        run_tool(argv, gguf.with_suffix(".log"), what="converting the toy base")
        partial.replace(gguf)


def create(gguf: Path, name: str) -> None:
    """Create the model `name` from the file in the server at OLLAMA_HOST."""
    digest = sha256_of(gguf)
    with Ollama(ollama_url(os.environ)) as server:
        if not server.has_blob(digest):
            server.upload(digest, gguf, lambda _bytes: None)
        server.create(name, {"files": {"model.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 512}})


if __name__ == "__main__":
    sys.exit(main())
