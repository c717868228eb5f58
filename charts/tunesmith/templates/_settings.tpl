{{/* The operator's settings file. Its fields are those of tunesmith.settings. */}}
{{- define "tunesmith.settings" -}}
stageImage: {{ include "tunesmith.image" (list . "stages") | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
watchNamespaces: {{ toJson .Values.watchNamespaces }}
leaseNamespace: {{ .Release.Namespace | quote }}
leaseName: {{ include "tunesmith.fullname" . }}-operator
workers: {{ .Values.operator.workers }}
gpuMemory: {{ .Values.gpuMemory | quote }}
execServiceAccount: {{ .Values.exec.serviceAccountName | quote }}
storage:
  default:
    {{- omit .Values.storage.default "runAsUser" "runAsGroup" | toYaml | nindent 4 }}
    {{- range $id := list "runAsUser" "runAsGroup" }}
    {{ $id }}: {{ index $.Values.storage.default $id | toJson }}  {{- /* Helm drops a null, and it means something */}}
    {{- end }}
  namespaces:
    {{- toYaml .Values.storage.namespaces | nindent 4 }}
servers:
  {{- include "tunesmith.servers" . | nindent 2 }}
podDefaults:
  {{- toYaml .Values.podDefaults | nindent 2 }}
network:
  {{- toYaml .Values.network | nindent 2 }}
trackers:
  {{- toYaml .Values.trackers | nindent 2 }}
{{- end }}
