#!/usr/bin/env bash
# The script by which clusters got their certificates before these made themselves: what an upgrade finds. Needs openssl.
#
#   certificates.sh CLUSTER FOLDER [NAME…]
#
# NAME: a DNS name or IP address by which peers reach this cluster (a node, a load balancer); repeatable.
# NAMESPACE: of the chart's release (default: clustermesh). DAYS: validity of the certificates (default: 365).
#
# In FOLDER: ca.crt goes to the peers (`trust` of their peer entry, and their clientTrust); ca.key signs, and stays secret;
# secrets.yaml is for `kubectl apply`. A second run keeps the CA and renews the rest.
set -euo pipefail
umask 077

[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
readonly cluster=$1 folder=$2 names=("${@:3}") namespace=${NAMESPACE:-clustermesh} days=${DAYS:-365}
mkdir -p "$folder"

quietly() {
    local said
    said=$("$@" 2>&1) || { echo "certificates: $*: $said" >&2; return 1; }
}

make_ca() {
    [ ! -e "$folder/ca.key" ] || return 0
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -keyout "$folder/ca.key" -out "$folder/ca.crt" -subj "/CN=clustermesh $cluster" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}

# certificate NAME COMMON-NAME USAGE [SUBJECT-ALTERNATIVE-NAMES]
certificate() {
    local file=$folder/$1
    quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$file.key" -out "$file.csr" -subj "/CN=$2"
    {
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=$3"
        [ -z "${4:-}" ] || echo "subjectAltName=$4"
    } >"$file.ext"
    quietly openssl x509 -req -in "$file.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days "$days" \
        -extfile "$file.ext" -out "$file.crt"
    rm -f "$file.csr" "$file.ext"
}

# The Service's names, the members' names, and what the caller says.
server_names() {
    local list=(DNS:localhost IP:127.0.0.1) host name
    for host in clustermesh-apiserver clustermesh-etcd clustermesh-etcd-{0,1,2}.clustermesh-etcd; do
        list+=("DNS:$host.$namespace.svc" "DNS:$host.$namespace.svc.cluster.local")
    done
    for name in "${names[@]}"; do
        if [[ $name == *:* || $name =~ ^[0-9.]+$ ]]; then
            list+=("IP:$name")
        else
            list+=("DNS:$name")
        fi
    done
    (IFS=,; echo "${list[*]}")
}

secret() { # SECRET CERTIFICATE
    cat <<E2
---
apiVersion: v1
kind: Secret
metadata: {name: $1, namespace: $namespace}
type: kubernetes.io/tls
data:
  ca.crt: $(base64 -w 0 "$folder/ca.crt")
  tls.crt: $(base64 -w 0 "$folder/$2.crt")
  tls.key: $(base64 -w 0 "$folder/$2.key")
E2
}

make_ca
certificate etcd "clustermesh-etcd.$cluster" serverAuth,clientAuth "$(server_names)"
certificate apiserver "clustermesh-apiserver.$cluster" clientAuth
certificate agent "node-agent.$cluster" clientAuth
{
    secret clustermesh-etcd-tls etcd
    secret clustermesh-apiserver-tls apiserver
    secret clustermesh-agent-tls agent
} >"$folder/secrets.yaml"
echo "certificates of $cluster: $folder/secrets.yaml for kubectl apply, $folder/ca.crt for the peers"
