{{/* The command line of each role: (list $ ROLE). */}}
{{- define "mi.args" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $values := $root.Values -}}
{{- $ports := include "mi.ports" $root | fromJson -}}
- serve
- {{ $role }}
- --listen=0.0.0.0:{{ index $ports $role }}
- --metrics-listen=0.0.0.0:7401
- --data-dir=/var/lib/mi/data
- --log-format={{ $values.logFormat }}
- --internal-key-file=/run/mi/keys/internal-key
- --internal-tls-ca=/run/mi/internal-tls/ca.crt
- --internal-tls-cert=/run/mi/internal-tls/tls.crt
- --internal-tls-key=/run/mi/internal-tls/tls.key
{{- range $peer := index (include "mi.calls" $root | fromJson) $role }}
- --{{ $peer }}-url=https://{{ include "mi.host" (list $root $peer) }}:{{ index $ports $peer }}
{{- end }}
{{- with $values.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- if include "mi.catalogue" $root }}
- --catalogue=/etc/mi/catalogue/catalogue.toml
{{- end }}
{{- with $values.model.url }}
- --model-api={{ $values.model.api }}
- --model-url={{ . }}
{{- end }}
{{- if $values.model.existingSecret }}
- --model-key-file=/run/mi/model/key
{{- end }}
{{- if has $role (include "mi.stateful" $root | fromJsonArray) }}
- --object-store={{ default "file:///var/lib/mi-objects" $values.objectStore.url }}
{{- end }}
{{- if eq $role "gateway" }}
{{ include "mi.args.gateway" $values }}
{{- else if eq $role "office" }}
{{ include "mi.args.office" $values }}
{{- else if eq $role "scheduler" }}
- --agent-endpoint={{ include "mi.agentEndpoint" $root }}
{{- if include "mi.privateCa" $root }}
- --agent-ca-file=/run/mi/agent-ca/ca.crt
{{- end }}
- --runtime=kubernetes
- --kubernetes-driver={{ $values.agents.driver }}
- --kubernetes-config=/etc/mi/kubernetes/runtime.toml
{{- end }}
{{- range (index $values $role).extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "mi.args.gateway" -}}
{{- if eq .gateway.tls.source "none" -}}
- --allow-plaintext
{{- else -}}
- --tls-cert=/run/mi/tls/tls.crt
- --tls-key=/run/mi/tls/tls.key
{{- end }}
- --card-key-file=/run/mi/keys/card-key
{{- with .gateway.publicUrl }}
- --public-url={{ . }}
{{- end }}
{{- range .gateway.corsOrigins }}
- --cors-origin={{ . }}
{{- end }}
{{- end }}

{{- define "mi.args.office" -}}
- --admin-key-file=/run/mi/keys/admin-key
{{- with .limits.officeCredits }}
- --office-credits={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.accountCredits }}
- --account-credits={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.credits }}
- --credits={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.maxOffices }}
- --max-offices={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.maxApiKeys }}
- --max-api-keys={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.maxOpenTasks }}
- --max-open-tasks={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.driveFile }}
- --drive-file-limit={{ include "mi.plain" . }}
{{- end }}
{{- with .limits.driveOffice }}
- --drive-office-limit={{ include "mi.plain" . }}
{{- end }}
{{- end }}
