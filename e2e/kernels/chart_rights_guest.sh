# The part of chart_rights.sh that runs in the guest, under its busybox.
set -eu

root=/sys/fs/cgroup
pods=$root/kubepods.slice/kubepods-burstable.slice
agent=$pods/kubepods-burstable-pod1.slice/cri-containerd-agent.scope
client=$pods/kubepods-burstable-pod2.slice/cri-containerd-client.scope
mkdir -p "$agent" "$client" /host/bpf /manifests /peers
mount -t bpf bpf /host/bpf
[ "$(stat -c %a $root)" = 555 ] || { echo "red: the root cgroup has mode $(stat -c %a $root)"; exit 1; }

# Two backends on this node; to the ClusterIP itself there is no route.
ip addr add 10.1.1.4/32 dev lo
ip addr add 10.1.1.5/32 dev lo
mkdir /www /www2 /others && echo "the backend" >/www/index.html && echo "another balancer's" >/www2/index.html
httpd -p 10.1.1.4:8080 -h /www
httpd -p 10.1.1.5:8080 -h /www2
manifests() {
    cat <<YAML
apiVersion: v1
kind: Service
metadata:
  name: rebel-base
  namespace: default
  annotations: {clustermesh.io/global: "true"}
spec:
  clusterIP: 10.101.0.10
  ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: rebel-base-1
  namespace: default
  labels: {kubernetes.io/service-name: rebel-base}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [$1], conditions: {ready: true}}]
YAML
}
manifests 10.1.1.4 >/manifests/rebel-base.yaml
manifests 10.1.1.5 >/others/rebel-base.yaml

red() {
    echo "red: $*"
    cat /tmp/agent.log
    exit 1
}
# A process of a cgroup, without what the chart doesn't give.
in_cgroup() {
    echo 0 >"$1/cgroup.procs"
    shift
    exec "$@"
}
identity="--cluster-name=hoth --cluster-id=1 --pod-cidr=10.1.0.0/16 --service-cidr=10.101.0.0/16 --node-name=n1 --peers-dir=/peers
    --bpffs=/host/bpf --run-dir=/run/clustermesh"
# By its path: the shell has a setpriv of its own.
start_agent() {
    (in_cgroup "$agent" /bin/setpriv --bounding-set="$CAPABILITIES" --inh-caps=-all --ambient-caps=-all --no-new-privs node-agent \
        $identity --source=manifests:/manifests --admin-address=127.0.0.1:9741 ${AGENT_FLAGS:-}) >/tmp/agent.log 2>&1 &
    agent_pid=$!
}
# Asks for readiness until the answer holds a word. PORT WORD SECONDS
until_says() {
    deadline=$(($(date +%s) + $3))
    until (printf 'GET /readyz HTTP/1.0\r\n\r\n' && sleep 1) | nc 127.0.0.1 "$1" 2>/dev/null | grep -q "$2"; do
        [ "$(date +%s)" -le $deadline ] || return 1
        sleep 1
    done
}
dials() {
    answer=$( (printf 'GET / HTTP/1.0\r\n\r\n' && sleep 1) | (in_cgroup "$client" /bin/nc -w 10 10.101.0.10 80) ) || true
    case $answer in
        *"$1"*) ;;
        *) red "the ClusterIP answered '$answer' instead of '$1'" ;;
    esac
}

start_agent
until_says 9741 ' 200 ' 60 || red "the agent is not ready"
dials "the backend"
grep -E 'canary|datapath' /tmp/agent.log || true

# Another balancer that was first: an instance of its own, whose programs stay when it has gone.
kill $agent_pid && wait $agent_pid || true
node-agent uninstall --bpffs=/host/bpf --run-dir=/run/clustermesh
node-agent $identity --instance=other --source=manifests:/others --admin-address=127.0.0.1:9742 >/tmp/other.log 2>&1 &
other_pid=$!
until_says 9742 ' 200 ' 60 || { cat /tmp/other.log; red "the other balancer is not ready"; }
kill $other_pid && wait $other_pid || true
dials "another balancer's"
start_agent
if node-agent features | grep -q '^ok  *preorder'; then
    until_says 9741 ' 200 ' 60 || red "the agent does not go first"
    echo "other balancer: passed"
else
    until_says 9741 'something else takes 1 of 1' 60 || red "the agent does not see that another balancer takes what is dialled"
    dials "another balancer's"
    node-agent uninstall --instance=other --bpffs=/host/bpf --run-dir=/run/clustermesh
    until_says 9741 ' 200 ' 120 || red "the agent is not ready after the other balancer has gone"
    echo "other balancer: seen"
fi
dials "the backend"
echo "chart rights: ok on $(uname -r)"
