{{/* Names and labels. */}}

{{- define "mi.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The start of every name: the release's own name where that says it already. */}}
{{- define "mi.fullname" -}}
{{- $name := include "mi.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Labels of what belongs to a component: (list $ COMPONENT). */}}
{{- define "mi.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: mi
{{ include "mi.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels that pods of a component are found by: (list $ COMPONENT). */}}
{{- define "mi.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "mi.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "mi.roles" -}}
{{ list "gateway" "office" "scheduler" "activity" "models" | toJson }}
{{- end }}

{{/* Where each role listens. */}}
{{- define "mi.ports" -}}
{{ dict "gateway" 7400 "office" 7411 "scheduler" 7412 "activity" 7413 "models" 7414 | toJson }}
{{- end }}

{{/* Which roles each role calls. */}}
{{- define "mi.calls" -}}
{{ dict
  "gateway" (list "office" "scheduler" "activity" "models")
  "office" (list "scheduler" "activity")
  "scheduler" (list "office" "activity")
  "activity" (list)
  "models" (list "office" "scheduler") | toJson }}
{{- end }}

{{/* The roles with a database and objects. */}}
{{- define "mi.stateful" -}}
{{ list "office" "scheduler" "activity" | toJson }}
{{- end }}

{{- define "mi.image" -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}
{{- end }}

{{/* The name by which pods of the cluster reach a role: (list $ ROLE). */}}
{{- define "mi.host" -}}
{{ printf "%s-%s.%s.svc" (include "mi.fullname" (index . 0)) (index . 1) (index . 0).Release.Namespace }}
{{- end }}

{{/* Secrets and volumes that are given by name, or made by the chart. */}}
{{- define "mi.keys" -}}
{{ default (printf "%s-keys" (include "mi.fullname" .)) .Values.keys.existingSecret }}
{{- end }}
{{- define "mi.database.secret" -}}
{{ default (printf "%s-postgres" (include "mi.fullname" .)) .Values.database.existingSecret }}
{{- end }}
{{- define "mi.database.key" -}}
{{ if .Values.database.existingSecret }}{{ .Values.database.key }}{{ else }}url{{ end }}
{{- end }}
{{- define "mi.objects.claim" -}}
{{ default (printf "%s-objects" (include "mi.fullname" .)) .Values.objectStore.volume.existingClaim }}
{{- end }}
{{- define "mi.internalTls" -}}
{{ default (printf "%s-internal" (include "mi.fullname" .)) .Values.internalTls.secretPrefix }}
{{- end }}
{{- define "mi.gatewayTls" -}}
{{ default (printf "%s-gateway-tls" (include "mi.fullname" .)) .Values.gateway.tls.secretName }}
{{- end }}
{{- define "mi.catalogue" -}}
{{- if .Values.catalogue.existingConfigMap }}{{ .Values.catalogue.existingConfigMap }}
{{- else if .Values.catalogue.content }}{{ include "mi.fullname" . }}-catalogue{{ end -}}
{{- end }}

{{- define "mi.installation" -}}
{{ default .Release.Name .Values.agents.installation }}
{{- end }}

{{/* Whether agents have to be told whom to trust: yes or nothing. */}}
{{- define "mi.privateCa" -}}
{{- if eq .Values.gateway.tls.source "generated" }}yes{{ else if and (ne .Values.gateway.tls.source "none") .Values.gateway.tls.privateCa }}yes{{ end -}}
{{- end }}

{{/* Where agents reach the gateway. */}}
{{- define "mi.agentEndpoint" -}}
{{- $scheme := ternary "http" "https" (eq .Values.gateway.tls.source "none") -}}
{{ default (printf "%s://%s:7400" $scheme (include "mi.host" (list . "gateway"))) .Values.agents.endpoint }}
{{- end }}

{{/* Every name that the gateway has: in its certificate. */}}
{{- define "mi.gatewayHosts" -}}
{{- $host := include "mi.host" (list . "gateway") -}}
{{- $name := printf "%s-gateway" (include "mi.fullname" .) -}}
{{- $hosts := list $host (printf "%s.%s" $host .Values.clusterDomain) (printf "%s.%s" $name .Release.Namespace) $name "localhost" -}}
{{- if .Values.gateway.ingress.host }}{{ $hosts = append $hosts .Values.gateway.ingress.host }}{{ end -}}
{{ concat $hosts .Values.gateway.tls.hosts | uniq | toJson }}
{{- end }}

{{/* A text or a number as it is written, which templates do not do with a million. */}}
{{- define "mi.plain" -}}
{{ toJson . | trimAll "\"" }}
{{- end }}

{{/* Thousandths of a core, of "4" or "500m". */}}
{{- define "mi.millis" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text }}{{ trimSuffix "m" $text | int64 }}{{ else }}{{ mulf (float64 $text) 1000 | int64 }}{{ end -}}
{{- end }}

{{/* Bytes, of "8Gi". */}}
{{- define "mi.bytes" -}}
{{- $factor := index (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[KMGT]i$" .) -}}
{{ mul (regexFind "^[0-9]+" . | int64) $factor }}
{{- end }}

{{/* What is kept in a Secret of the chart: its field, else what stands for it: (list SECRET FIELD FRESH). */}}
{{- define "mi.kept" -}}
{{- $data := dig "data" dict (index . 0 | default dict) -}}
{{ index $data (index . 1) | default (index . 2 | b64enc) }}
{{- end }}

{{/* A certificate authority, kept in the Secret of this name, as JSON: (list $ NAME COMMON-NAME). Call it once: it may be made. */}}
{{- define "mi.ca" -}}
{{- $kept := lookup "v1" "Secret" (index . 0).Release.Namespace (index . 1) -}}
{{- if $kept -}}
{{ dict "cert" (index $kept.data "ca.crt" | b64dec) "key" (index $kept.data "ca.key" | b64dec) | toJson }}
{{- else -}}
{{- $ca := genCA (index . 2) 3650 -}}
{{ dict "cert" $ca.Cert "key" $ca.Key | toJson }}
{{- end -}}
{{- end }}

{{/* The Secret of that: (list $ NAME CA). */}}
{{- define "mi.ca.secret" -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ index . 1 }}
  labels: {{- include "mi.labels" (list (index . 0) "tls") | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
type: Opaque
data:
  ca.crt: {{ (index . 2).cert | b64enc }}
  ca.key: {{ (index . 2).key | b64enc }}
{{- end }}

{{/* What every pod is held to. */}}
{{- define "mi.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "mi.pod.security" -}}
runAsNonRoot: true
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
