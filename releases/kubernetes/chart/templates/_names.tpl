{{/* name is that of every object: the Helm release's. */}}
{{- define "kata-deploy.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kata-deploy.selector" -}}
app.kubernetes.io/name: kata-deploy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kata-deploy.labels" -}}
{{ include "kata-deploy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* dash is what follows the keys of nodes' labels. */}}
{{- define "kata-deploy.dash" -}}
{{ with .Values.suffix }}-{{ . }}{{ end }}
{{- end -}}

{{/* handler is the runtime's name for containerd. */}}
{{- define "kata-deploy.handler" -}}
{{ .Values.handler }}{{ include "kata-deploy.dash" . }}
{{- end -}}

{{- define "kata-deploy.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end -}}

{{/* pod is what all pods of the chart have. */}}
{{- define "kata-deploy.pod" -}}
serviceAccountName: {{ .account }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* container is what all containers of the chart have. */}}
{{- define "kata-deploy.container" -}}
image: {{ include "kata-deploy.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- if .Values.apiServer.host }}
env:
  - name: KUBERNETES_SERVICE_HOST
    value: {{ .Values.apiServer.host | quote }}
  - name: KUBERNETES_SERVICE_PORT
    value: {{ .Values.apiServer.port | default 443 | quote }}
{{- end }}
{{- end -}}
