"""A base model that another FineTuneJob on the same volume has trained, made whole: weights, tokenizer, template."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

from tunesmith_stages.contract import ExitCode, StageConfig, StageName, UnitConfig
from tunesmith_stages.fetch.asked import Asked
from tunesmith_stages.fetch.model_files import describe_model, model_files
from tunesmith_stages.fetch.storing import require_space, store_folder
from tunesmith_stages.preconditions import patience_with
from tunesmith_stages.program import Made, StageError, Work
from tunesmith_stages.volume import Volume, manifest_of

_LOOK_AGAIN = 1.0
_KEY = re.compile(r"[0-9a-f]{64}")
_CURE = "Train that job again, then look this source up again (`tunesmith.dev/refresh`, or `tunesmith run --refresh`)."


def version(asked: Asked) -> str:
    """Return the key of what the job has trained, which stays once it was looked up; empty if there is nothing."""
    if _KEY.fullmatch(asked.version):
        return asked.version
    return _newest(asked.volume, asked.source["job"]["name"])


def bring(work: Work) -> Made:
    """Put a job's trained model into the store as a whole model; an adapter is merged into its base.

    Raises:
        StageError: the job is this one, is not known on the volume, or has not trained yet.
    """
    name: str = work.params["source"]["job"]["name"]
    if name == work.config.job:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the job `{name}` names itself as its base model",
            reason="JobIsItself",
            hint="Name another FineTuneJob in `model.job.name`.",
        )
    key = work.params["refresh"] or _newest(work.volume, name)
    wait_for(work, key, patience_with(work.volume.root))
    unit = _trained(work.volume, name, key)
    whole = _made_whole(work, unit, work.volume.unit(StageName.TRAIN, key) / "out")
    model_files(whole, name, cure=_CURE)
    described = describe_model(whole, _CURE)
    total = sum(path.stat().st_size for path in whole.iterdir())
    entries = manifest_of(whole, work.progress.counter(total, "bytes hashed"))
    return store_folder(work, whole, entries, {**described, "trained": key})


def _newest(volume: Volume, job: str) -> str:
    """Return the key of what a job has trained, by everything that the volume knows of it."""
    from tunesmith_stages.report.facts import gather

    facts = gather(volume, job)
    unit = facts.one(StageName.TRAIN) if facts else None
    return unit.config.key if unit is not None and unit.result is not None else ""


def wait_for(work: Work, key: str, patience: float) -> None:
    """Wait up to `patience` seconds for a trained model that another machine may just have published."""
    volume, deadline = work.volume, time.monotonic() + patience
    while _KEY.fullmatch(key) and volume.result(StageName.TRAIN, key) is None and time.monotonic() < deadline:
        work.progress.note("waiting for the trained model that is the base: on NFS it may show late")
        time.sleep(_LOOK_AGAIN)


def _trained(volume: Volume, job: str, key: str) -> UnitConfig:
    """Return what a trained model was made from."""
    try:
        if not _KEY.fullmatch(key) or volume.result(StageName.TRAIN, key) is None:
            raise ValueError("no result")
        config = StageConfig.from_json((volume.unit(StageName.TRAIN, key) / "stage.json").read_text("utf-8"))
        return next(unit for unit in config.units if unit.key == key)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        known = volume.run(job).is_dir()
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"the job `{job}` has not trained a model on this volume"
            if known
            else f"nothing is known of a job `{job}` on this volume",
            reason="JobNotTrained" if known else "JobNotFound",
            hint="Run that job first, up to its training, on the same volume."
            if known
            else "Correct `model.job.name`. The job must use the same volume (`storage`).",
        ) from error


def _made_whole(work: Work, unit: UnitConfig, trained: Path) -> Path:
    """Return a new folder with the whole model."""
    from tunesmith_stages.convert.adapter import Adapter
    from tunesmith_stages.convert.folder import assemble, link_weights
    from tunesmith_stages.convert.kept_model import keep
    from tunesmith_stages.convert.merge import merge
    from tunesmith_stages.convert.safetensors_file import weight_files

    base, prepared = (_input(work, unit, role) for role in ("base", "prepared"))
    template = (prepared / "chat_template.jinja").read_bytes()
    end_of_turn = json.loads((prepared / "tokens.json").read_text("utf-8"))["endOfTurn"]["id"]
    assembled, whole = work.folder / "assembled", work.folder / "incoming"
    assembled.mkdir()
    is_adapter = (trained / "adapter_config.json").is_file()
    if is_adapter:
        size = sum(path.stat().st_size for path in weight_files(base))
        require_space(work, size)
        work.progress.note("merging the adapter into its base")
        merge(base, Adapter(trained), assembled, work.progress.counter(size, "bytes merged"))
    else:
        link_weights(assembled, trained)
    assemble(assembled, base if is_adapter else trained, base, template.decode())
    keep(whole, assembled, base, chat_template=template, end_of_turn=end_of_turn)
    shutil.rmtree(assembled)
    return whole


def _input(work: Work, unit: UnitConfig, role: str) -> Path:
    wanted = unit.inputs[role]
    if not work.volume.holds(wanted):
        raise StageError(
            ExitCode.MISSING_INPUT,
            f"what the model was trained from is gone from the volume: {wanted.path} (`{role}`)",
            reason="InputLost",
            hint=_CURE,
        )
    return work.volume.root / wanted.path
