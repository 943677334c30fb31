{{/* The settings of the Kubernetes runtime. */}}
{{- define "mi.runtime" -}}
{{- $fullname := include "mi.fullname" . -}}
{{- $agents := .Values.agents -}}
installation = {{ include "mi.installation" . | quote }}
namespace = {{ .Release.Namespace | quote }}
service_account = "{{ $fullname }}-scheduler"
office_role = "{{ $fullname }}-office"
image = {{ default (include "mi.image" .) $agents.image | quote }}
{{- with $agents.runtimeClass }}
runtime_class = {{ . | quote }}
{{- end }}
{{- with $agents.storageClass }}
storage_class = {{ . | quote }}
{{- end }}
user_id = {{ $agents.userId | int64 }}
grace_seconds = {{ $agents.graceSeconds | int64 }}
{{- with $agents.nodeSelector }}
node_selector = {{ include "mi.toml.table" . }}
{{- end }}

[gateway]
namespace = {{ .Release.Namespace | quote }}
labels = {{ include "mi.selector" (list . "gateway") | fromYaml | include "mi.toml.table" }}
{{- $blocks := $agents.gatewayBlocks }}
{{- with .Values.gateway.service.clusterIP }}
{{- $blocks = append $blocks (printf "%s/%s" . (ternary "128" "32" (contains ":" .))) }}
{{- end }}
blocks = {{ $blocks | uniq | toJson }}
ports = [7400]

[dns]
namespace = {{ .Values.dns.namespace | quote }}
labels = {{ include "mi.toml.table" .Values.dns.labels }}
blocks = {{ .Values.dns.blocks | toJson }}
ports = {{ .Values.dns.ports | toJson }}

[quota]
pods = {{ $agents.quota.pods | int64 }}
{{ include "mi.toml.limits" $agents.quota }}

[defaults]
{{ include "mi.toml.limits" $agents.defaults }}

[most]
{{ include "mi.toml.limits" $agents.most }}
{{- end }}

{{- define "mi.toml.limits" -}}
cpu_millis = {{ include "mi.millis" .cpu }}
memory_bytes = {{ include "mi.bytes" .memory }}
disk_bytes = {{ include "mi.bytes" .disk }}
{{- end }}

{{/* A map of texts, in one line. */}}
{{- define "mi.toml.table" -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s = %s" (quote $key) (quote $value)) }}{{ end -}}
{ {{ join ", " $pairs }} }
{{- end }}
