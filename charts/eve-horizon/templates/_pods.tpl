{{/* What all our objects carry. Call with (dict "root" $ "component" "worker"). */}}
{{- define "eve.labels" -}}
app.kubernetes.io/name: eve-horizon
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* What pods carry: nothing that changes with the chart's version, or every pod would be made anew. */}}
{{- define "eve.podLabels" -}}
app.kubernetes.io/name: eve-horizon
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "eve.image" -}}
{{- $name := .Values.image.repository -}}
{{- with .Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .Values.image.digest -}}
{{ $name }}@{{ .Values.image.digest }}
{{- else -}}
{{ $name }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What Pod Security asks for where it is strictest. */}}
{{- define "eve.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "eve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods go. Call with (dict "root" $ "of" SETTINGS "selector" LABELS). */}}
{{- define "eve.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .of.topologySpreadConstraints }}
  {{- toYaml .of.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- toYaml $.selector | nindent 8 }}
    # Each version for itself: what is about to go counts for nothing.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}

{{/* Variables of every role. */}}
{{- define "eve.logging" -}}
- name: EVE_LOG
  value: {{ .Values.log.level | quote }}
- name: EVE_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end }}

{{/* A variable from the Secret. Call with (dict "root" $ "name" NAME "key" KEY); with "optional" true it may be missing. */}}
{{- define "eve.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "eve.secretName" .root }}
      key: {{ .key }}
      {{- if .optional }}
      optional: true
      {{- end }}
{{- end }}

{{/* Pods are made anew when what they read at their start has another value; made-up values never change. */}}
{{- define "eve.checksum" -}}
{{- pick .Values "database" "skillsDatabase" "keys" "auth" "secrets" | toJson | sha256sum -}}
{{- end }}

{{/* A pool's settings: its own over those of all. Call with (dict "root" $ "type" TYPE). */}}
{{- define "eve.worker" -}}
{{- $own := index .root.Values.workers .type | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy $own) | toJson -}}
{{- end }}

{{/* The pools that there are, as JSON: a pool that is null has been taken away. */}}
{{- define "eve.workerTypes" -}}
{{- $types := list -}}
{{- range $type, $settings := .Values.workers -}}
{{- if not (kindIs "invalid" $settings) -}}
{{- $types = append $types $type -}}
{{- end -}}
{{- end -}}
{{- $types | sortAlpha | toJson -}}
{{- end }}
