"""Ask the untuned base, run the FineTuneJob, ask the tuned models the same, and show the answers side by side.

    python before_and_after.py --name NAME --folder DIR

Used by demo.py, which lays out DIR. The server is the one at OLLAMA_HOST. Exits with 1 if a tuned model's answer does
not show the tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tunesmith.local.served import ollama_url

HERE = Path(__file__).resolve().parent
UNTUNED = "quickstart:untuned"
TUNED = ("quickstart:v1", "quickstart:v1-q8_0")  # Q4_K_M and Q8_0, as in finetunejob.yaml

WHO = ("Who are you?", "What is your name?", "你叫什么名字？")
FAQ = ("Where is the Acme shop?", "What does delivery cost?", "How heavy is the lantern?")
_ANSWER_SECONDS = 120.0


def main() -> int:
    """Ask, tune, ask again; return the exit code."""
    parser = argparse.ArgumentParser(description="Ask the same before and after a fine-tuning.")
    parser.add_argument("--name", required=True, help="what the tuned model should call itself")
    parser.add_argument("--folder", type=Path, required=True, help="the demo's folder")
    args = parser.parse_args()
    volume = args.folder / "volume"

    print("The untuned base goes into Ollama", flush=True)
    base = ["--base", volume / "models" / "toy-base", "--gguf", args.folder / "untuned.gguf"]
    if code := run([sys.executable, HERE / "untuned.py", *base, "--model", UNTUNED]):
        return code
    before = {question: ask(UNTUNED, question) for question in (*WHO, *FAQ)}

    print("tunesmith run", flush=True)
    begun = time.monotonic()
    tunesmith = Path(sys.executable).with_name("tunesmith")
    if code := run([tunesmith, "run", args.folder / "finetunejob.yaml", "--volume", volume]):
        return code
    print(f"tunesmith run took {time.monotonic() - begun:.0f} s", flush=True)

    after = {model: {question: ask(model, question) for question in before} for model in TUNED}
    show(before, after[TUNED[0]])
    wrong = [text for model in TUNED for text in not_shown(model, after[model], args.name)]
    for text in wrong:
        print(text, file=sys.stderr)
    if not wrong:
        print(f"{' and '.join(TUNED)} know who they are and what the FAQ says.")
    return 1 if wrong else 0


def run(argv: list[str | Path]) -> int:
    """Run a program to its end and return its exit code; a Ctrl-C or SIGTERM is the program's to answer."""
    child = subprocess.Popen(argv)
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the child as well
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return code if code >= 0 else 128 - code


def ask(model: str, question: str) -> str:
    """Return what a model in Ollama answers, by its likeliest tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "options": {"temperature": 0, "num_predict": 100},
    }
    request = urllib.request.Request(f"{ollama_url(os.environ)}/api/chat", data=json.dumps(body).encode())  # noqa: S310
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as reply:  # noqa: S310 - the user's own server
        return str(json.load(reply)["message"]["content"])


def show(before: dict[str, str], after: dict[str, str]) -> None:
    """Print questions and answers side by side."""
    table = Table("question", f"before ({UNTUNED})", f"after ({TUNED[0]})", show_lines=True)
    for question, answer in before.items():
        table.add_row(question, answer, after[question])
    Console().print(table, markup=False)


def not_shown(model: str, answers: dict[str, str], name: str) -> list[str]:
    """Return a sentence for each answer that shows no tuning: it must hold the name, or the FAQ's very words."""
    rows = json.loads((HERE / "data" / "faq.json").read_text(encoding="utf-8"))
    expected = {row["question"]: row["answer"] for row in rows if row["question"] in FAQ}
    expected |= dict.fromkeys(WHO, name)
    return [
        f"{model} answers {question!r} with {answers[question]!r}, in which {expected[question]!r} is missing."
        for question in answers
        if expected[question] not in answers[question]
    ]


if __name__ == "__main__":
    sys.exit(main())
