{{/* Where the pods of stages may go, as rules of NetworkPolicies, from the addresses in the values. */}}

{{/* Port of an address: the one that it names, or its scheme's. */}}
{{- define "tunesmith.portOf" -}}
{{- $named := regexFind ":[0-9]+$" (urlParse .).host }}
{{- if $named }}{{ trimPrefix ":" $named }}{{ else if hasPrefix "https:" . }}443{{ else }}80{{ end }}
{{- end }}

{{/*
A rule for an address, and for the port of the pods behind it: (list "http://ollama.ml.svc:80" 11434). A Service's name
is known by its end, and only its namespace is let through; of others only the port can be told. A policy sees the port
of the pod, which may differ from its Service's.
*/}}
{{- define "tunesmith.egressTo" -}}
{{- $url := index . 0 }}
{{- $service := regexFind "^[a-z0-9-]+\\.[a-z0-9-]+\\.svc([.:]|$)" (urlParse $url).host }}
{{- $ports := list (include "tunesmith.portOf" $url | int) }}
{{- if and $service (gt (len .) 1) }}{{ $ports = append $ports (index . 1) | uniq }}{{ end }}
ports:
  {{- range $ports }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
{{- with $service }}
to:
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ index (splitList "." .) 1 }}}}
{{- end }}
{{- end }}

{{/* The ports of the hubs: https, and those of mirrors and proxies. */}}
{{- define "tunesmith.hubPorts" -}}
{{- $ports := list 443 }}
{{- with .Values.network }}
{{- range compact (list .httpProxy .httpsProxy .huggingFaceEndpoint .modelScopeEndpoint) }}
{{- $ports = append $ports (include "tunesmith.portOf" . | int) }}
{{- end }}
{{- end }}
{{- $rules := list }}
{{- range uniq $ports }}{{ $rules = append $rules (dict "port" . "protocol" "TCP") }}{{ end }}
{{- toYaml $rules }}
{{- end }}

{{/* Rules for the experiment trackers and the proxies before them, as a YAML list. */}}
{{- define "tunesmith.trackerEgress" -}}
{{- $rules := list }}
{{- $trackers := compact (list .Values.trackers.mlflow .Values.trackers.weightsAndBiases) }}
{{- $proxies := ternary (compact (list .Values.network.httpProxy .Values.network.httpsProxy)) list (gt (len $trackers) 0) }}
{{- range uniq (concat $trackers $proxies) }}
{{- $rules = append $rules (include "tunesmith.egressTo" (list .) | fromYaml) }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{/* Rules for the Ollama servers of a namespace, as a YAML list: (list $ "team-a"). */}}
{{- define "tunesmith.serverEgress" -}}
{{- $namespace := index . 1 }}
{{- $rules := list }}
{{- range include "tunesmith.servers" (index . 0) | fromYamlArray }}
{{- if or (not .allowedNamespaces) (has $namespace .allowedNamespaces) }}
{{- $rules = append $rules (include "tunesmith.egressTo" (list .url 11434) | fromYaml) }}
{{- end }}
{{- end }}
{{- toYaml (uniq $rules) }}
{{- end }}
