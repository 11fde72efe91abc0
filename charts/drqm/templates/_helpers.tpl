{{/* Labels of every object. The product's name is fixed: one release per cluster. */}}
{{- define "drqm.labels" -}}
app.kubernetes.io/name: drqm
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: drqm
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The operator's pods: selector of Deployment and Service, immutable, so without a version. */}}
{{- define "drqm.operatorSelector" -}}
app.kubernetes.io/name: drqm
app.kubernetes.io/component: operator
{{- end }}

{{/* Image name. Arguments: root, image (value, may be empty), name (default name). */}}
{{- define "drqm.image" -}}
{{- if .image -}}
{{ .image }}
{{- else -}}
{{ with .root.Values.imageRegistry }}{{ . }}/{{ end }}{{ .name }}:{{ .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The operator's configuration file; the same shape that `drqm-operator` parses. */}}
{{- define "drqm.operatorConfig" -}}
namespace: {{ .Release.Namespace }}
replicator:
  image: {{ include "drqm.image" (dict "root" . "image" .Values.replicator.image "name" "drqm-replicator") | quote }}
  imagePullPolicy: {{ .Values.replicator.imagePullPolicy }}
  nodeSelector: {{ toJson .Values.replicator.nodeSelector }}
  tolerations: {{ toJson .Values.replicator.tolerations }}
  resources: {{ toJson .Values.replicator.resources }}
  priorityClassName: {{ .Values.replicator.priorityClassName | quote }}
  logLevel: {{ .Values.replicator.logLevel | quote }}
  pool:
    kind: {{ .Values.replicator.pool.kind }}
    path: {{ .Values.replicator.pool.path | quote }}
    {{- with .Values.replicator.pool.capacityBytes }}
    capacityBytes: {{ int64 . }}
    {{- end }}
    allocation: {{ .Values.replicator.pool.allocation }}
  ports:
    replication: {{ .Values.replicator.ports.replication }}
    control: {{ .Values.replicator.ports.control }}
    metrics: {{ .Values.replicator.ports.metrics }}
{{- end }}
