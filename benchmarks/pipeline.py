"""How much of a job's time is ours, and how much its tools'.

Runs the quickstart from an empty volume and looks at the processes twenty times a second. The tools are the training
ranks (PyTorch, DeepSpeed), llama.cpp's converter, llama-server and llama-quantize, and Ollama's model runners; their
time is that during which at least one of them lives. The rest is what the pipeline adds: the command line, reading and
labelling the data, merging, hashing, checking. Goal: at most 15 seconds.

    make bench BENCH=pipeline
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tunesmith.api.parse import parse_job
from tunesmith.local.run import current_plan
from tunesmith_stages.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.jobs import QUICKSTART, quickstart_volume  # noqa: E402
from support.ollama_server import OllamaServer, ollama_programs, ollama_server  # noqa: E402

TOOLS = ("tunesmith_stages.train.launch", "tunesmith_stages.train.worker", "torch.distributed", "run_converter")
PROGRAMS = ("llama-server", "llama-quantize")
INTERVAL = 0.05


def main() -> None:
    """Run the benchmark and print its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = folder / "base"
        subprocess.run([sys.executable, QUICKSTART / "make_base.py", "--out", base], check=True, stdout=sys.stderr)
        volume = quickstart_volume(folder / "volume", base)
        job = QUICKSTART / "finetunejob.yaml"
        with ollama_server(ollama_programs()[-1], folder / "ollama" / "models") as server:
            total, tools = measure(job, volume, server)
            plan, results = current_plan(parse_job(job.read_text(encoding="utf-8")), Volume(volume))
            for name, key in plan.keys.items():
                if key in results:
                    print(f"{name:<24} {results[key].numbers['seconds']:8.1f} s")
            print(f"{'total':<24} {total:8.1f} s")
            print(f"{'tools':<24} {tools:8.1f} s")
            print(f"{'pipeline without tools':<24} {total - tools:8.1f} s (goal: at most 15)")
            print(f"{'second run':<24} {measure(job, volume, server)[0]:8.1f} s (goal: below 3)")
    print(f"ratio {total / tools:.2f} of the job's time to that of its tools alone (training, llama.cpp, Ollama)")


def measure(job: Path, volume: Path, server: OllamaServer) -> tuple[float, float]:
    """Run a job; return its seconds, and those in which at least one tool lived."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "run", job, "--volume", volume],
        env={**os.environ, "OLLAMA_HOST": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    busy, last = 0.0, begun
    while process.poll() is None:
        time.sleep(INTERVAL)
        now = time.monotonic()
        if tool_lives(process.pid) or psutil.Process(server.pid).children():
            busy += now - last
        last = now
    total = time.monotonic() - begun
    output = process.stdout.read() if process.stdout else ""
    if process.returncode != 0:
        sys.exit(output)
    return total, busy


def tool_lives(root: int) -> bool:
    """Tell whether one of the tools runs below the process `root`."""
    try:
        below = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    for process in below:
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        line = " ".join(words)
        if any(name in line for name in TOOLS) or (words and os.path.basename(words[0]) in PROGRAMS):  # noqa: PTH119
            return True
    return False


if __name__ == "__main__":
    main()
