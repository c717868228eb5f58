"""Where a stage program finds things in its container."""

VOLUME = "/volume"
"""The volume, or the folder of it that `storage.subPath` names."""
CONFIG = "/etc/tunesmith"
"""The ConfigMap."""
STAGE_FILE = "stage.json"
CA_FILE = "ca.crt"
SCRATCH = "/scratch"
"""The only place besides the volume that can be written to. It goes with the pod."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a mount of its own, not a temporary file
TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes keeps what a container leaves here."""
