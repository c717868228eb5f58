"""Reasons: the disk below the volume fails. Each passes when the disk is well again, so the work is tried again."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason, Sign, Where

_SIGBUS = "135"
"""128 and the number of the signal."""

FILE_UNREADABLE = Reason(
    ("FileUnreadable",),
    "A file that the program had opened could not be read (SIGBUS): an I/O error, or the file became shorter.",
    "See the kernel's messages on that node, the volume, and who writes to it.",
    (ExitCode.TEMPORARY,),
    signs=(Sign(Where.EXIT_CODE, _SIGBUS),),
)

DISK = (
    Reason(
        ("VolumeReadOnly",),
        "The volume is mounted read-only, as Linux does with a disk that fails, or as its claim asks for.",
        "See the kernel's messages on that node; `accessModes` and `readOnly` of the claim. What was made is kept.",
        (ExitCode.NO_SPACE,),
        signs=(Sign(Where.LOG, text="Read-only file system"),),
    ),
    Reason(
        ("VolumeFails",),
        "The volume answers with I/O errors: what was written or read there did not get through.",
        "See the kernel's messages on that node, and the disk or the server behind the volume. What was made is kept.",
        (ExitCode.TEMPORARY,),
        signs=(
            Sign(Where.LOG, text="Input/output error"),
            Sign(Where.LOG, text=r"\(os error 5\)"),  # as Rust's libraries say it: safetensors, tokenizers
        ),
    ),
    FILE_UNREADABLE,
)
