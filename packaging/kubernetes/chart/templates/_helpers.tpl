{{- define "graft.name" -}}
{{- if contains "graft" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-graft" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "graft.selector" -}}
app.kubernetes.io/name: graft
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "graft.labels" -}}
{{ include "graft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What the Deployment and the Rollout have in common: how to tell their pods, and the pods. */}}
{{- define "graft.workload" -}}
minReadySeconds: 5
revisionHistoryLimit: 3
selector:
  matchLabels:
    {{- include "graft.selector" . | nindent 4 }}
template:
  metadata:
    labels:
      {{- include "graft.labels" . | nindent 6 }}
      {{- with .Values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    annotations:
      checksum/config: {{ .Values.config | toJson | sha256sum }}
      {{- with .Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- include "graft.pod" . | nindent 4 }}
{{- end }}

{{- define "graft.pod" -}}
serviceAccountName: {{ include "graft.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add 10 (div (add (int64 .Values.drain.timeoutMs) 999) 1000) }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 999
  runAsGroup: 999
  fsGroup: 999
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "graft.selector" . | nindent 8 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: graft
    image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    env:
      - { name: GRAFT_LISTEN, value: ":8080" }
      - { name: GRAFT_OPS, value: ":9180" }
      - { name: GRAFT_STAGE_DIR, value: /var/cache/graft/stage }
      - { name: GRAFT_STATE_DIR, value: /var/lib/graft/state }
      - { name: GRAFT_CONTROL, value: /run/graft/control.sock }
      - { name: GRAFT_DRAIN_DELAY_MS, value: {{ .Values.drain.delayMs | int64 | quote }} }
      - { name: GRAFT_DRAIN_TIMEOUT_MS, value: {{ .Values.drain.timeoutMs | int64 | quote }} }
      {{- if .Values.plugins.configMap }}
      - { name: GRAFT_PLUGIN_DIR, value: /plugins }
      - { name: GRAFT_WATCH, value: "true" }
      {{- end }}
      {{- with .Values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - { name: http, containerPort: 8080 }
      - { name: ops, containerPort: 9180 }
    startupProbe:
      httpGet: { path: /startupz, port: ops }
      periodSeconds: 1
      timeoutSeconds: 2
      failureThreshold: 60
    readinessProbe:
      httpGet: { path: /readyz, port: ops }
      periodSeconds: 1
      timeoutSeconds: 2
      failureThreshold: 1
    livenessProbe:
      httpGet: { path: /livez, port: ops }
      periodSeconds: 10
      timeoutSeconds: 2
      failureThreshold: 3
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: { drop: [ALL] }
    volumeMounts:
      - { name: config, mountPath: /etc/graft, readOnly: true }
      {{- if .Values.plugins.configMap }}
      - { name: plugins, mountPath: /plugins, readOnly: true }
      {{- end }}
      - { name: stage, mountPath: /var/cache/graft }
      - { name: state, mountPath: /var/lib/graft }
      - { name: run, mountPath: /run/graft }
volumes:
  - name: config
    configMap: { name: {{ include "graft.name" . }}-config }
  {{- with .Values.plugins.configMap }}
  - name: plugins
    configMap: { name: {{ . }} }
  {{- end }}
  - name: state
    emptyDir: { sizeLimit: {{ .Values.stateSize }} }
  - name: stage
    emptyDir: { sizeLimit: {{ .Values.stageSize }} }
  - name: run
    emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- end }}
