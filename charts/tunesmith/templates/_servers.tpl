{{/* The Ollama servers, and what follows from those that allow the method Exec. */}}

{{/* All servers, as a YAML list: those of the values, or the one that the chart runs. */}}
{{- define "tunesmith.servers" -}}
{{- if and .Values.ollama.enabled (not .Values.servers) -}}
- name: main
  url: http://ollama.{{ .Release.Namespace }}.svc:11434
  {{- with .Values.ollama.exec }}
  {{- if .namespaces }}
  allowedNamespaces: {{ toJson .namespaces }}
  {{- end }}
  {{- if .claimName }}
  exec:
    namespace: {{ $.Release.Namespace }}
    pod: ollama-0
    container: ollama
    volumeMountPath: {{ list .volumeMountPath $.Values.storage.default.subPath | compact | join "/" | quote }}
  {{- end }}
  {{- end }}
{{- else -}}
{{ toYaml .Values.servers }}
{{- end }}
{{- end }}

{{/* The servers with `exec`, as a YAML list. */}}
{{- define "tunesmith.execServers" -}}
{{- $servers := list }}
{{- range include "tunesmith.servers" . | fromYamlArray }}
{{- if .exec }}{{ $servers = append $servers . }}{{ end }}
{{- end }}
{{- toYaml $servers }}
{{- end }}

{{/* The namespaces whose FineTuneJobs may use Exec on any server, as a YAML list without repetitions. */}}
{{- define "tunesmith.execNamespaces" -}}
{{- $namespaces := list }}
{{- range include "tunesmith.execServers" . | fromYamlArray }}
{{- $namespaces = concat $namespaces .allowedNamespaces }}
{{- end }}
{{- $namespaces | uniq | toYaml }}
{{- end }}

{{/*
What may be done by whom, as a YAML list: one grant for each pair of a server with `exec` and a namespace.
`folder` ends with a slash, so that /volume does not allow /volume-of-others.
*/}}
{{- define "tunesmith.execGrants" -}}
{{- $grants := list }}
{{- range $server := include "tunesmith.execServers" . | fromYamlArray }}
{{- range $namespace := $server.allowedNamespaces }}
{{- $grants = append $grants (dict
  "user" (printf "system:serviceaccount:%s:%s" $namespace $.Values.exec.serviceAccountName)
  "namespace" $server.exec.namespace
  "pod" $server.exec.pod
  "container" $server.exec.container
  "folder" (printf "%s/" ($server.exec.volumeMountPath | replace "{namespace}" $namespace | trimSuffix "/"))
  "prefix" (default "" $server.modelNamePrefix | replace "{namespace}" $namespace)) }}
{{- end }}
{{- end }}
{{- toYaml $grants }}
{{- end }}
