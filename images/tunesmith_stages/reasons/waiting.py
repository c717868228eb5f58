"""Reasons: it waits, and goes on by itself. Nothing has failed."""

from __future__ import annotations

from tunesmith_stages.reasons.retry import LATER, WAITS
from tunesmith_stages.reasons.row import Reason, Sign, Where

NO_IMAGE = Reason(
    ("ImagePullBackOff",),
    "A node cannot pull the image; the sentence is the kubelet's.",
    "Image and registry: `image` of the chart. Credentials (401, 403): `image.pullSecrets` in the job's namespace too. "
    "`no space left on device`: the node's disk. The corrected image is taken by itself; `status.image` says which one "
    "it is.",
    own_retry=WAITS,
    signs=tuple(
        Sign(Where.HELD_UP, word)
        for word in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
    ),
)

UNSCHEDULED = (
    Reason(
        ("Queued",),
        "A queue has not admitted the Job, or a scheduling gate holds the pod. Or somebody suspended a Job that names "
        "no queue; the sentence says so.",
        "Wait: the sentence has the place in the queue and Kueue's own reason. `kubectl get workloads` shows the "
        "others. See [Queues](queues.md). Without a queue: set `spec.suspend` of the Job to false.",
        own_retry=WAITS,
        signs=(Sign(Where.SCHEDULER, "SchedulingGated"), Sign(Where.OPERATOR)),
    ),
    Reason(
        ("Inadmissible",),
        "The queue cannot admit the Job before somebody changes something; the sentence is Kueue's, or says that there "
        "is no Kueue.",
        "The LocalQueue of the namespace that `scheduling.queueName` names, and its ClusterQueue, must exist and not "
        "be stopped: `kubectl describe` them. See [Queues](queues.md).",
        own_retry=WAITS,
    ),
    Reason(
        ("VolumeClaimNotFound",),
        "The claim is not in the namespace.",
        "Make it, or correct `storage.claimName` (job) or `storage.default.claimName` (chart). With NFS, list the "
        "namespace in `nfs.namespaces`.",
        own_retry=WAITS,
        signs=(Sign(Where.SCHEDULER, text='persistentvolumeclaim ".*" not found'),),
    ),
    Reason(
        ("VolumeClaimNotBound",),
        "The claim has no volume yet.",
        "`kubectl describe pvc`: its StorageClass must exist and be able to make such a volume, or a PersistentVolume "
        "must fit the claim.",
        own_retry=WAITS,
        signs=(Sign(Where.SCHEDULER, text="unbound immediate PersistentVolumeClaims"),),
    ),
    Reason(
        ("Unschedulable",),
        "No node takes the pod; the sentence is the scheduler's.",
        "Compare `training.gpusPerNode`, `resources`, `nodeSelector` and `tolerations` (the job's `pods`, the chart's "
        "`podDefaults`) with `kubectl describe nodes`. If nodes show no GPUs at all: NVIDIA's device plugin.",
        own_retry=WAITS,
        signs=(Sign(Where.SCHEDULER),),
    ),
)

REFUSED_PODS = (
    Reason(
        ("QuotaExceeded",),
        "The namespace's ResourceQuota is used up, or asks for less.",
        "Wait, or raise it; lower `pods.<stage>.resources`.",
        own_retry=WAITS,
        signs=(
            Sign(Where.EVENT, "FailedCreate", "exceeded quota"),
            Sign(Where.EVENT, "FailedCreate", "failed quota"),
            Sign(Where.API, text="exceeded quota"),
        ),
    ),
    Reason(
        ("PodSecurityRefused",),
        "The namespace's Pod Security standard refuses the pod. Ours meet `restricted`.",
        "See what the sentence names: mostly a user id 0 in `storage`, or something that a webhook adds.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedCreate", "violates PodSecurity"),),
    ),
    Reason(
        ("ServiceAccountNotFound",),
        "The namespace lacks the ServiceAccount `default`, or the one for `method: Exec`.",
        "For Exec, list the namespace in `servers[].allowedNamespaces` and upgrade the chart.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedCreate", "[Ss]ervice ?[Aa]ccount .*not found"),),
    ),
    Reason(
        ("PriorityClassNotFound",),
        "The cluster has no PriorityClass of that name.",
        "`kubectl get priorityclasses`; correct `scheduling.priorityClassName`, or have it made.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedCreate", "no PriorityClass with name .* was found"),),
    ),
    Reason(
        ("RuntimeClassNotFound",),
        "The cluster has no RuntimeClass of that name.",
        "`kubectl get runtimeclasses`; correct `runtimeClassName` in the job's `pods` or the chart's `podDefaults`, or "
        "install NVIDIA's runtime, which brings the class `nvidia`.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedCreate", 'RuntimeClass ".*" not found'),),
    ),
    Reason(
        ("PodsForbidden",),
        "Something else refuses the pod: an admission webhook, a LimitRange.",
        "The sentence names it.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedCreate"),),
    ),
)

ON_THE_NODE = (
    NO_IMAGE,
    Reason(
        ("SecretNotFound",),
        "The Secret with a token or with credentials is not in the namespace, or lacks the key; the sentence is the "
        "kubelet's.",
        "Make it in the job's namespace, or correct `tokenSecretRef`.",
        own_retry=WAITS,
        signs=(
            Sign(Where.EVENT, "FailedMount", 'secret ".*" not found'),
            Sign(Where.EVENT, "FailedMount", "references non-existent secret key"),
            Sign(Where.HELD_UP, "CreateContainerConfigError", 'secret ".*" not found'),
            Sign(Where.HELD_UP, "CreateContainerConfigError", "couldn't find key .* in Secret"),
        ),
    ),
    Reason(
        ("VolumeNotMounted",),
        "The node cannot mount the volume, or lacks the ConfigMap of a dataset, or its key; the sentence is the "
        "kubelet's.",
        "Make the ConfigMap, with that key. Of the volume: server, path, export rule, `nfs-common` on the nodes. A "
        "`subPath` must not lead out of the volume.",
        own_retry=WAITS,
        signs=(Sign(Where.EVENT, "FailedMount"), Sign(Where.EVENT, "FailedAttachVolume")),
    ),
    Reason(
        ("ContainerConfigInvalid",),
        "The container cannot be set up: a `subPath` that cannot be made, or a user that is not allowed.",
        "The sentence says what. Make the folder, or set `storage.runAsUser` to a user that is not 0.",
        own_retry=WAITS,
        signs=(Sign(Where.HELD_UP, "CreateContainerConfigError"),),
    ),
)

BESIDE = (
    Reason(
        ("ApiRefused",),
        "The API server refuses a Job, ConfigMap or Service of ours.",
        "The sentence has its words: a webhook, a policy, or rights that the operator lacks. What can never be right "
        "as it is (400, 413, 422) makes the job `Stalled`: edit it.",
        own_retry=WAITS,
        signs=(Sign(Where.API),),
    ),
    Reason(
        ("PodTerminating",),
        "The pod before it has not ended; two must never write the same.",
        "Wait. If its node is lost for good, delete the Node, or `kubectl taint node NAME "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute` and remove the taint when it is back. `kubectl "
        "delete pod --force` is not enough: the Job keeps a pod of which nobody has said that it ended.",
        own_retry=WAITS,
    ),
    Reason(("Suspended",), "`spec.suspend` is true.", "Set it to false.", own_retry=WAITS),
    Reason(
        ("ParallelismLowered",),
        "Somebody set `parallelism` of the stage's Job below the number of pods that it takes.",
        "The sentence names the Job and the number: set it back, or delete the Job, then it is made anew.",
        own_retry=WAITS,
    ),
    Reason(
        ("Stopping",),
        "The Job before it still ends, a training up to its grace period to save a checkpoint.",
        "Wait. A pod that does not end: its node is away.",
        own_retry=WAITS,
    ),
    Reason(
        ("MadeElsewhere",),
        "Pods of another FineTuneJob of the namespace, perhaps one that was just deleted, or pods whose Job somebody "
        "deleted, work on the same; what they leave is used.",
        "Wait.",
        own_retry=WAITS,
    ),
    Reason(
        ("WaitingForJob",),
        "The base is what another FineTuneJob trains (`model.job`), and that one has not trained yet as it is written "
        "now. The sentence says where it stands.",
        "Nothing, if it runs. Else apply it, mend it, or set its `suspend` or `dryRun` to false: this job goes on by "
        "itself.",
        own_retry=WAITS,
    ),
    Reason(
        ("ReportLost",),
        "The pod was gone before its report was read; a short Job looks up what is on the volume.",
        "Wait.",
        own_retry=WAITS,
    ),
    Reason(
        ("ResultLost",),
        "It ended, but its result is not there; the stage is begun again, later each time.",
        "Wait. If it repeats: who removes files from the volume?",
        own_retry=LATER,
    ),
)

WAITING = (*UNSCHEDULED, *REFUSED_PODS, *ON_THE_NODE, *BESIDE)
