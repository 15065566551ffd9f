{{- define "linkseal.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "linkseal.labels" -}}
app.kubernetes.io/name: linkseal
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* How the API server names our service accounts. */}}
{{- define "linkseal.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkseal-agent
{{- end }}

{{- define "linkseal.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkseal-controller
{{- end }}

{{/* Whether wireguard-go runs, in pods of its own: where every node is to use it, or some may have to. */}}
{{- define "linkseal.daemons" -}}
{{- if or .Values.daemons.enabled (eq (dig "wireguard" "driver" "auto" .Values.agent.config) "userspace") -}}
yes
{{- end }}
{{- end }}

{{- define "linkseal.daemonsSocket" -}}
/run/linkseal/daemons/control.sock
{{- end }}

{{/* Labels and annotations of what an uninstall's hook may do with: (list ROOT HOOK). It is there while the hook runs. */}}
{{- define "linkseal.uninstallRight" -}}
labels: {{- include "linkseal.labels" (first .) | nindent 2 }}
annotations:
  helm.sh/hook: {{ last . }}
  helm.sh/hook-weight: "-5"
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
