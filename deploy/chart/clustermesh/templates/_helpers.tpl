{{/* Names are fixed: certificates and peers of other clusters hold them, and a cluster has one release. */}}

{{- define "clustermesh.labels" -}}
{{ include "clustermesh.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "clustermesh.selector" -}}
app.kubernetes.io/name: clustermesh
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "clustermesh.image" -}}
{{- $tag := .root.Values.images.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.images.registry }}{{ . }}/{{ end }}{{ .repository }}:{{ $tag }}
{{- end }}

{{- define "clustermesh.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The address to listen on: on a node without IPv6, [::] can't be bound. */}}
{{- define "clustermesh.anyAddress" -}}
{{- if has "IPv6" .Values.ipFamilies -}}[::]{{- else -}}0.0.0.0{{- end -}}
{{- end }}

{{- define "clustermesh.families" -}}
ipFamilies: {{ toJson .Values.ipFamilies }}
ipFamilyPolicy: {{ .Values.ipFamilyPolicy }}
{{- end }}

{{/* Flags that both binaries take. */}}
{{- define "clustermesh.commonArgs" -}}
- --cluster-name={{ .Values.cluster.name }}
- --cluster-id={{ .Values.cluster.id }}
{{- range .Values.cluster.podCidrs }}
- --pod-cidr={{ . }}
{{- end }}
{{- range .Values.cluster.serviceCidrs }}
- --service-cidr={{ . }}
{{- end }}
{{- range .Values.cluster.nodeCidrs }}
- --node-cidr={{ . }}
{{- end }}
- --source=kubernetes
- --log-format={{ .Values.log.format }}
- --log-filter={{ .Values.log.filter }}
{{- end }}

{{- define "clustermesh.kubernetesApi" -}}
{{- with .Values.kubernetesApi }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a process that only talks to the network may do. */}}
{{- define "clustermesh.plainContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "clustermesh.plainPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The members of our etcd, by names that don't depend on the cluster's DNS domain. */}}
{{- define "clustermesh.etcdMember" -}}
clustermesh-etcd-{{ .member }}.clustermesh-etcd.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* The certificates that clustermesh-apiserver keeps, and where. */}}
{{- define "clustermesh.certificates" -}}
{{- with .Values.tls -}}
ca={{ .caSecret }},apiserver={{ .apiserverSecret }},agent={{ .agentSecret }}
{{- if not $.Values.etcd.external }},etcd={{ .etcdSecret }}{{ end }}
{{- end }}
{{- end }}

{{- define "clustermesh.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Replicas prefer different nodes, unless the values say otherwise. */}}
{{- define "clustermesh.affinity" -}}
affinity:
{{- with .affinity }}
{{- toYaml . | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "clustermesh.selector" . | nindent 12 }}
{{- end }}
{{- end }}
