{{- define "gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 bytes: a StatefulSet adds an ordinal and a hash, the Services a suffix. */}}
{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "gateway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gateway.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: daemoneye
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gateway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "gateway.policyConfigMap" -}}
{{- default (printf "%s-policy" (include "gateway.fullname" .)) .Values.policy.existingConfigMap -}}
{{- end -}}

{{/* Everything the drain may take, and a little for the process itself to end. */}}
{{- define "gateway.gracePeriod" -}}
{{- $drain := .Values.drain -}}
{{- if le (int $drain.deadlineSeconds) (add (int $drain.announceSeconds) (int $drain.spreadSeconds) | int) -}}
{{- fail "drain.deadlineSeconds must be longer than drain.announceSeconds and drain.spreadSeconds together" -}}
{{- end -}}
{{- add (int $drain.deadlineSeconds) 5 -}}
{{- end -}}

{{/* gateway.toml. A JSON string is a TOML string. */}}
{{- define "gateway.config" -}}
[tcp]
bind_address = {{ printf "%s:%d" .Values.listener.address (int .Values.listener.port) | toJson }}
max_connections = {{ int .Values.listener.maxConnections }}

[tcp.rates]
per_network = {{ int .Values.listener.rates.perNetwork }}
network_burst = {{ int .Values.listener.rates.networkBurst }}
in_all = {{ int .Values.listener.rates.inAll }}
all_burst = {{ int .Values.listener.rates.allBurst }}

[tcp.proxy]
from = {{ toJson .Values.listener.proxy.from }}
timeout = {{ printf "%ds" (int .Values.listener.proxy.timeoutSeconds) | toJson }}

[tcp.tls_config]
cert_file = "/etc/daemoneye/tls/tls.crt"
key_file = "/etc/daemoneye/tls/tls.key"
ca_file = "/etc/daemoneye/tls/ca.crt"
{{- with .Values.tls.crl }}
{{- $lists := .urls }}
{{- if .configMapName }}
{{- $lists = prepend $lists "/etc/daemoneye/crl" }}
{{- end }}
crl = {{ default (list) $lists | toJson }}
revocation = {{ toJson .revocation }}
stale_crl = {{ toJson .stale }}
crl_refresh = {{ toJson .refresh }}
{{- end }}

[identity]
trust_domain = {{ .Values.identity.trustDomain | toJson }}
{{- with .Values.identity.spiffe }}
spiffe = {{ toJson . }}
{{- end }}
dns = {{ toJson .Values.identity.dns }}

[policy]
file = "/etc/daemoneye/policy/policy.toml"

[bus]
broker = {{ .Values.bus.broker | toJson }}
{{- if eq .Values.bus.broker "foreign" }}

[bus.foreign]
socket_path = {{ .Values.bus.foreign.socketPath | toJson }}
names = {{ .Values.bus.foreign.names | toJson }}
{{- end }}
{{- range .Values.bus.routes }}

[[bus.route]]
pattern = {{ toJson .pattern }}
{{- with .confirm }}
confirm = {{ toJson . }}
{{- end }}
{{- with .consumer }}
consumer = {{ toJson . }}
{{- end }}
{{- with .window }}
window = {{ int . }}
{{- end }}
{{- with .answerWithin }}
answer_within = {{ toJson . }}
{{- end }}
{{- with .unheard }}
unheard = {{ toJson . }}
{{- end }}
{{- with .envelope }}
envelope = {{ toJson . }}
{{- end }}
{{- end }}
{{- if eq .Values.bus.broker "embedded" }}

[unix_socket]
socket_path = {{ .Values.bus.socketPath | toJson }}
allowed_uids = [{{ range $index, $uid := .Values.bus.allowedUids }}{{ if $index }}, {{ end }}{{ int $uid }}{{ end }}]
{{- if .Values.bus.allowedUids }}
# Other users of the pod come in through its group.
file_permissions = "0660"
directory_permissions = "0750"
{{- end }}
{{- end }}

[state]
directory = "/var/lib/daemoneye/gateway"

[admin]
bind_address = {{ printf "127.0.0.1:%d" (int .Values.admin.port) | toJson }}
probe_address = {{ printf "%s:%d" .Values.listener.address (int .Values.admin.probePort) | toJson }}
allowed_hosts = {{ toJson .Values.admin.allowedHosts }}
socket_path = {{ toJson .Values.admin.socketPath }}
{{- if .Values.admin.token.secretName }}
token_file = "/etc/daemoneye/admin/tokens"
{{- end }}

[drain]
announce = {{ printf "%ds" (int .Values.drain.announceSeconds) | toJson }}
spread = {{ printf "%ds" (int .Values.drain.spreadSeconds) | toJson }}
deadline = {{ printf "%ds" (int .Values.drain.deadlineSeconds) | toJson }}

[log]
format = {{ .Values.log.format | toJson }}
filter = {{ .Values.log.filter | toJson }}
{{- with .Values.extraConfig }}

{{ . | trim }}
{{- end }}
{{- end -}}
