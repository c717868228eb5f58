"""The whole chain by the command line: data, DeepSpeed, llama.cpp, Ollama, and an answer that shows the tuning."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from support.jobs import QUICKSTART, Job, kill_when, quickstart_volume
from support.ollama_server import OllamaServer
from tunesmith_stages.contract import ExitCode, StageName
from tunesmith_stages.volume import Volume

pytestmark = pytest.mark.e2e

FAQ = json.loads((QUICKSTART / "data" / "faq.json").read_text(encoding="utf-8"))
_LORA = {"finetuningType": "LoRA", "lora": {"rank": 16, "alpha": 32}, "learningRate": "5e-3", "maxSteps": 40}
_FULL = {"finetuningType": "Full", "learningRate": "1e-3", "maxSteps": 40}


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(
            {**_LORA, "processesPerNode": 1, "deepspeed": {"zeroStage": 3}},
            id="LoRA-1-process-ZeRO-3",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {**_LORA, "processesPerNode": 2, "deepspeed": {"zeroStage": 0}},
            id="LoRA-2-processes-ZeRO-0",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {**_FULL, "processesPerNode": 1, "deepspeed": {"zeroStage": 2}},
            id="Full-1-process-ZeRO-2",
            marks=pytest.mark.nightly,
        ),
        pytest.param({**_FULL, "processesPerNode": 2, "deepspeed": {"zeroStage": 3}}, id="Full-2-processes-ZeRO-3"),
    ],
)
def test_answers_as_trained(
    training: dict[str, object], tmp_path: Path, toy_base: Path, newest_ollama: OllamaServer
) -> None:
    """Whatever is trained in whatever way, Ollama gives the answers of the data."""
    name = f"chain-{zlib.crc32(json.dumps(training).encode())}"
    job = Job(quickstart_volume(tmp_path, toy_base), newest_ollama.url, training=training, ollama={"model": name})
    job.run()
    for row in FAQ[:6]:
        assert newest_ollama.answer(name, row["question"]) == row["answer"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, newest_ollama: OllamaServer) -> Job:
    """Return a job whose training was killed once in the middle, and which was then run to its end."""
    root = quickstart_volume(tmp_path_factory.mktemp("volume"), toy_base)
    training = {**_LORA, "processesPerNode": 2, "checkpoint": {"saveSteps": 10}, "validation": {"fraction": "0.1"}}
    job = Job(root, newest_ollama.url, training=training)
    train = root / "stages" / "train"
    kill_when(job.start(), lambda: any(train.glob("*.checkpoints/step-10/COMPLETE")))
    (job.root / "after-kill.txt").write_text(job.run())
    return job


class TestOneJob:
    """What happens around one finished job; the job is trained once."""

    def test_goes_on_from_the_checkpoint(self, job: Job) -> None:
        """After kill -9 the same command goes on from the last whole checkpoint and ends with the trained model."""
        printed = (job.root / "after-kill.txt").read_text()
        assert "prepare   cached" in printed
        assert " 1/40 steps" not in printed
        assert "40/40 steps" in printed
        steps = [
            json.loads(line)["step"]
            for line in (job.root / job.result(StageName.TRAIN).path).parent.joinpath("logs", "metrics.jsonl").open()
            if "loss" in json.loads(line)
        ]
        assert steps == list(range(1, 41))

    def test_leaves_nothing_half_made(self, job: Job) -> None:
        """Of the killed attempt only what tells about it is left."""
        for attempt in Volume(job.root).attempts(StageName.TRAIN, job.result(StageName.TRAIN).key):
            assert not (attempt / "out").exists()

    def test_second_run_does_nothing(self, job: Job) -> None:
        """A finished job says cached for every stage and starts none."""
        before = {path: path.stat().st_mtime_ns for path in (job.root / "stages").rglob("*")}
        printed = job.run()
        assert "  runs" not in printed, "stages are listed so; the place of the report is not meant"
        assert printed.count("cached") == 6
        assert {path: path.stat().st_mtime_ns for path in (job.root / "stages").rglob("*")} == before

    def test_new_quantization_runs_only_that(self, job: Job) -> None:
        """Another quantization quantizes that one and registers; nothing is trained or converted again."""
        more = Job(
            job.root,
            job.server,
            training=job.training,
            export={"outType": "F16", "quantizations": ["Q8_0", "Q4_0"]},
        )
        printed = more.run()
        assert "train     cached" in printed
        assert "convert   cached" in printed
        assert "quantize  runs Q4_0\n" in printed

    def test_lost_model_is_registered_again(self, job: Job, newest_ollama: OllamaServer) -> None:
        """A model that somebody removed from the server comes back, without training."""
        newest_ollama.ask("/api/delete", {"model": "chain:v1"}, method="DELETE")
        assert "register  runs" in job.run()
        assert newest_ollama.answer("chain:v1", FAQ[0]["question"]) == FAQ[0]["answer"]

    def test_failed_smoke_test_leaves_the_live_model(self, job: Job, newest_ollama: OllamaServer) -> None:
        """A model that does not answer as asked for never takes the place of the old one."""
        before = newest_ollama.digests()
        asked = {
            "model": "chain:v1",
            "system": "Be brief.",
            "smokeTests": [{"prompt": FAQ[0]["question"], "expect": "no such answer"}],
        }
        printed = Job(job.root, job.server, training=job.training, ollama=asked).run(code=ExitCode.GATE_FAILED)
        assert "SmokeTestFailed" in printed
        assert "no such answer" in printed
        assert newest_ollama.digests() == before

    def test_other_smoke_tests_are_asked(self, job: Job) -> None:
        """Smoke tests enter no key, but a model counts as proven only by those that the job has now."""
        asked = {**job.ollama, "smokeTests": [{"prompt": FAQ[1]["question"], "expect": FAQ[1]["answer"]}]}
        other = Job(job.root, job.server, training=job.training, ollama=asked)
        printed = other.run()
        assert "smoke tests" in printed
        assert "register  runs" in printed
        assert "register  cached" in other.run()

    def test_source_that_is_gone_is_not_missed(self, job: Job) -> None:
        """What was made of a source stays done when the source was removed to free space."""
        data = job.root / "data" / "faq.json"
        aside = data.rename(job.root / "aside.json")
        assert "train     cached" in job.run("--until", "train")
        aside.rename(data)

    def test_changed_data_is_noticed(self, job: Job) -> None:
        """A dataset that was edited on the volume is fetched and prepared again."""
        rows = [*FAQ, {"question": "Is this new?", "answer": "Yes, it is new."}]
        (job.root / "data" / "faq.json").write_text(json.dumps(rows), encoding="utf-8")
        printed = job.run("--until", "prepare")
        assert "prepare   runs" in printed
        (job.root / "data" / "faq.json").write_text(json.dumps(FAQ), encoding="utf-8")
