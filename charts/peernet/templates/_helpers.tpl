{{/* Name of everything the chart makes: "peernet-operator" for a release called peernet. */}}
{{- define "peernet.name" -}}
{{- if contains "peernet" .Release.Name -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-peernet-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "peernet.selector" -}}
app.kubernetes.io/name: peernet-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "peernet.labels" -}}
{{ include "peernet.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: peernet
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "peernet.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "peernet.name" .) -}}
{{- end -}}

{{/* An image reference: pass (dict "image" .Values.image "root" .). */}}
{{- define "peernet.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
