"""Files of the kernel's control groups, as a container finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def control_group(folder: Path, own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Write the files of a control group; return the folder that stands for /sys/fs/cgroup, and /proc/self/cgroup.

    Args:
        folder: takes both.
        own: what /proc/self/cgroup says.
        files: by path below the control groups, what they say.
    """
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "root", folder / "own"
