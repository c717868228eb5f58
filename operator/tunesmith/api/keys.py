"""Names that the operator, its children and people's tools have in common: labels, annotations, conditions."""

from __future__ import annotations

GROUP = "tunesmith.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"

FIELD_MANAGER = "tunesmith-operator"

JOB_LABEL = f"{GROUP}/job"
"""Name of the FineTuneJob that a child belongs to."""
UID_LABEL = f"{GROUP}/job-uid"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
KEYS_ANNOTATION = f"{GROUP}/keys"
"""On a child Job: the keys of the units that it makes, separated by commas."""
LOOKUP_ANNOTATION = f"{GROUP}/lookup"
"""On a child Job: `true` if it makes nothing and looks up what is there."""
MANIFEST_ANNOTATION = f"{GROUP}/manifest-digest"
"""On a child Job: a digest of all that it was made from, by which it is seen that it would be another one now."""
RETRY_ANNOTATION = f"{GROUP}/retry"
"""On a FineTuneJob: a new value makes a stalled job try again."""
REFRESH_ANNOTATION = f"{GROUP}/refresh"
"""On a FineTuneJob: a new value makes the operator look at the sources again."""
LONGEST_ANNOTATION = 1024
"""Characters of these two that the status remembers."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
