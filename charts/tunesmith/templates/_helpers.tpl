{{/* Names, labels and small parts that several templates need. */}}

{{/* Name of the release's objects; "tunesmith" is put behind a release's name that does not say it. */}}
{{- define "tunesmith.fullname" -}}
{{- if contains "tunesmith" .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-tunesmith" .Release.Name }}{{ end }}
{{- end }}

{{/* Name of objects that are not in a namespace, or in somebody else's: unique in the cluster. */}}
{{- define "tunesmith.clusterName" -}}
{{ .Release.Namespace }}-{{ include "tunesmith.fullname" . }}
{{- end }}

{{/* Labels by which the operator's own objects find its pods. They must never change. */}}
{{- define "tunesmith.selectorLabels" -}}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "tunesmith.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tunesmith
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Reference of one of the two images: (list $ "operator"). */}}
{{- define "tunesmith.image" -}}
{{- $root := index . 0 }}
{{- $image := index $root.Values.image (index . 1) }}
{{- $path := printf "%s/%s" $root.Values.image.registry $image.repository }}
{{- if $image.digest }}{{ $path }}@{{ $image.digest }}{{ else }}{{ $path }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* Credentials of the registry, for a pod in the release's namespace. */}}
{{- define "tunesmith.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Security context of a container, for Pod Security "restricted" and a root file system that is not written. */}}
{{- define "tunesmith.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Verbs of the operator in one namespace, or in all. No Secrets: pods name them, the kubelet reads them. */}}
{{- define "tunesmith.rules" -}}
- apiGroups: [tunesmith.dev]
  resources: [finetunejobs]
  # patch: for the finalizer of `deletionPolicy: Delete` alone. RBAC cannot say that: it gives the whole object.
  verbs: [get, list, watch, patch]
- apiGroups: [tunesmith.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [tunesmith.dev]
  resources: [finetunejobs/finalizers]  # some clusters ask for it from who sets blockOwnerDeletion (OpenShift does)
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]  # progress
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps, services]  # stage.json; the address of a training's first node
  verbs: [create, delete]
- apiGroups: [""]
  resources: [events]  # quota, FailedMount and Pod Security are told only there
  verbs: [list, create]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]  # why a queue has not admitted a training; without Kueue there are none
  verbs: [list]
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]  # its place in the queue
  verbs: [get]
{{- end }}

{{/* The trial Ollama. */}}
{{- define "tunesmith.ollamaSelector" -}}
app.kubernetes.io/name: ollama
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: ollama
{{- end }}

{{- define "tunesmith.ollamaLabels" -}}
{{ include "tunesmith.ollamaSelector" . }}
app.kubernetes.io/part-of: tunesmith
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
