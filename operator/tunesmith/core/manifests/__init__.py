"""What the operator creates on a cluster for a stage: a ConfigMap with its stage.json, a Job, and what the Job needs.

Pure functions from values to plain manifests. The operator creates what they return and `tunesmith render` prints it,
so that what is on paper is what runs.
"""

from tunesmith.core.manifests.child import Child, child_name, lookup_name
from tunesmith.core.manifests.job import child_manifests
from tunesmith.core.manifests.layers import ManifestError
from tunesmith.core.manifests.log_reader import LOGS_PROGRAM, REPORT_PROGRAM, log_reader_pod
from tunesmith.core.manifests.storage import effective_storage

__all__ = [
    "LOGS_PROGRAM",
    "REPORT_PROGRAM",
    "Child",
    "ManifestError",
    "child_manifests",
    "child_name",
    "effective_storage",
    "log_reader_pod",
    "lookup_name",
]
