{{/* What values may not say together, and a schema cannot tell. Rendered with the accounts, which are always there. */}}
{{- define "mi.checks" -}}
{{- $tls := .Values.gateway.tls -}}
{{- if and (eq $tls.source "certManager") (not (dig "name" "" $tls.issuerRef)) -}}
{{- fail "gateway.tls.issuerRef.name: is required with gateway.tls.source=certManager" -}}
{{- end -}}
{{- if and (eq $tls.source "existing") (not $tls.secretName) -}}
{{- fail "gateway.tls.secretName: is required with gateway.tls.source=existing" -}}
{{- end -}}
{{- if and (eq .Values.internalTls.source "certManager") (not (dig "name" "" .Values.internalTls.issuerRef)) -}}
{{- fail "internalTls.issuerRef.name: is required with internalTls.source=certManager" -}}
{{- end -}}
{{- if ne (empty .Values.model.url) (empty .Values.model.api) -}}
{{- fail "model.api and model.url: both or neither" -}}
{{- end -}}
{{- if and .Values.model.existingSecret (not .Values.model.url) -}}
{{- fail "model.url: is required with model.existingSecret" -}}
{{- end -}}
{{- if and .Values.gateway.ingress.enabled (not .Values.gateway.ingress.host) -}}
{{- fail "gateway.ingress.host: is required with gateway.ingress.enabled" -}}
{{- end -}}
{{- if lt (int .Values.terminationGraceSeconds) (add (int .Values.drainSeconds) 20 | int) -}}
{{- fail "terminationGraceSeconds: must be at least 20 more than drainSeconds: a role takes up to 15 s to end" -}}
{{- end -}}
{{- end }}
