{{- define "holdfast.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "holdfast.apiServer" -}}
{{- if .Values.apiServer.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.apiServer.host | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.apiServer.port | quote }}}
{{- end }}
{{- end }}

{{- define "holdfast.probes" -}}
startupProbe:
  httpGet: {host: 127.0.0.1, port: {{ .httpPort }}, path: /v1/runtime/startup}
  periodSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet: {host: 127.0.0.1, port: {{ .httpPort }}, path: /v1/runtime/readiness}
  periodSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: {host: 127.0.0.1, port: {{ .httpPort }}, path: /v1/runtime/liveness}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "holdfast.telemetry" -}}
- {name: HOLDFAST_HEALTH, value: "127.0.0.1:{{ .httpPort }}"}
{{- if .prometheus.enabled }}
- {name: HOLDFAST_METRICS, value: "0.0.0.0:{{ .prometheus.port }}"}
{{- end }}
{{- end }}

{{- define "holdfast.labels" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
