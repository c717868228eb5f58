{{/* What the schema cannot say: values that do not fit each other end the installation with what to do. */}}

{{- define "tunesmith.checks" -}}
{{- include "tunesmith.checkImage" . }}
{{- include "tunesmith.checkOllama" . }}
{{- include "tunesmith.checkServers" . }}
{{- include "tunesmith.checkNfs" . }}
{{- include "tunesmith.checkGc" . }}
{{- include "tunesmith.checkNamespacesExist" . }}
{{- end }}

{{- define "tunesmith.checkImage" -}}
{{- if not .Values.image.registry }}
{{- fail "\n`image.registry` is empty. Set it to the registry that you pushed the images to, such as registry.example.com/ml: docs/install.md, step 2, says how they are built." }}
{{- end }}
{{- end }}

{{- define "tunesmith.checkServers" -}}
{{- $seen := dict }}
{{- range $server := include "tunesmith.servers" . | fromYamlArray }}
{{- if hasKey $seen .name }}
{{- fail (printf "\n`servers`: the name %q is there twice. FineTuneJobs name a server by it: give each its own." .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- if and .caBundle (hasPrefix "http://" .url) }}
{{- fail (printf "\n`servers`: %q has a `caBundle` but its `url` begins with http://. Write https://, or remove the `caBundle`." .name) }}
{{- end }}
{{- if and .exec (not .allowedNamespaces) }}
{{- fail (printf "\n`servers`: %q has `exec` but no `allowedNamespaces`. Exec gives each of them a ServiceAccount with rights on the Ollama pod, so they must be listed." .name) }}
{{- end }}
{{- range $namespace := .allowedNamespaces }}
{{- if and $.Values.watchNamespaces (not (has $namespace $.Values.watchNamespaces)) }}
{{- fail (printf "\n`servers`: `allowedNamespaces` of %q names %q, which is not in `watchNamespaces`: no FineTuneJob is run there. Add it there, or remove it here." $server.name $namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tunesmith.checkNfs" -}}
{{- with .Values.nfs }}
{{- if .enabled }}
{{- range $field := list "server" "path" "namespaces" }}
{{- if not (get $.Values.nfs $field) }}
{{- fail (printf "\n`nfs.enabled` is true but `nfs.%s` is empty. Set it, or bring claims of your own and leave `nfs.enabled` false." $field) }}
{{- end }}
{{- end }}
{{- if and (gt (len (uniq .namespaces)) 1) (not (contains "{namespace}" .path)) }}
{{- fail (printf "\n`nfs.namespaces` lists several namespaces, but `nfs.path` has no `{namespace}`: all would share one folder, and who writes checkpoints there can run code in the pods of the others. Write `{namespace}` into the path, such as %s/{namespace}, or install a release with a path of its own for each." (trimSuffix "/" .path)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tunesmith.checkGc" -}}
{{- range $volume := .Values.gc.volumes }}
{{- if and $.Values.watchNamespaces (not (has $volume.namespace $.Values.watchNamespaces)) }}
{{- fail (printf "\n`gc.volumes` names the namespace %q, which is not in `watchNamespaces`: no FineTuneJob is run there, so all that lies on its volume would count as useless. Add it there, or remove it here." $volume.namespace) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tunesmith.checkOllama" -}}
{{- with .Values.ollama }}
{{- if and .exec.claimName (not .enabled) }}
{{- fail "\n`ollama.exec.claimName` is set but `ollama.enabled` is false: there is no pod to mount it. For an Ollama of your own, set `exec` of its entry in `servers`." }}
{{- end }}
{{- if and .exec.claimName (not .exec.namespaces) }}
{{- fail "\n`ollama.exec.claimName` is set but `ollama.exec.namespaces` is empty. List the namespaces whose FineTuneJobs may use Exec." }}
{{- end }}
{{- if and .exec.claimName (not $.Values.servers) }}
{{- range $namespace := .exec.namespaces }}
{{- $folder := $.Values.storage.default.subPath | replace "{namespace}" $namespace }}
{{- $own := get (get $.Values.storage.namespaces $namespace | default dict) "subPath" | default $folder | replace "{namespace}" $namespace }}
{{- if ne $own $folder }}
{{- fail (printf "\n`storage.namespaces.%[1]s.subPath` is %[2]q, but the Ollama of this chart looks for the files of %[1]s in %[3]q, by `storage.default.subPath`. Remove the former, remove %[1]s from `ollama.exec.namespaces`, or write an entry of `servers` with the `exec` that suits %[1]s." $namespace $own $folder) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Asked only where there is a cluster to ask (`helm template` has none) and where the one who installs makes objects
outside of namespaces anyway: others may not be allowed to look namespaces up.
*/}}
{{- define "tunesmith.checkNamespacesExist" -}}
{{- $exec := include "tunesmith.execServers" . | fromYamlArray }}
{{- if and (or .Values.crds.enabled $exec .Values.nfs.enabled) (lookup "v1" "Namespace" "" "default") }}
{{- $needed := include "tunesmith.execNamespaces" . | fromYamlArray | concat .Values.watchNamespaces }}
{{- range $exec }}{{ $needed = append $needed .exec.namespace }}{{ end }}
{{- if .Values.nfs.enabled }}{{ $needed = concat $needed .Values.nfs.namespaces }}{{ end }}
{{- range .Values.gc.volumes }}{{ $needed = append $needed .namespace }}{{ end }}
{{- range uniq $needed }}
{{- if and (ne . $.Release.Namespace) (not (lookup "v1" "Namespace" "" .)) }}
{{- fail (printf "\nThe namespace %q is named in the values but does not exist. Create it (`kubectl create namespace %s`), or correct the name." . .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
