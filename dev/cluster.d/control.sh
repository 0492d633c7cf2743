# The host's side: network, certificates, control plane, DNS and volumes. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034,SC2154,SC2317  # settings come from and go to dev/cluster; some functions are called by name

network_up() {
  cat /proc/sys/net/ipv4/ip_forward >"$RUN/ip_forward" # put back by network_down
  echo 1 >/proc/sys/net/ipv4/ip_forward
  ip link add "$BRIDGE" type bridge
  ip addr add "$GATEWAY/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
}

network_down() {
  ip link del "$BRIDGE" 2>/dev/null || true # its routes go with it
  [ ! -f "$RUN/ip_forward" ] || cat "$RUN/ip_forward" >/proc/sys/net/ipv4/ip_forward
}

# certificate NAME SUBJECT [subjectAltName]: signed by the cluster's CA, in pki/.
certificate() (
  cd "$RUN/pki" || exit
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "${3:-DNS:localhost}") 2>/dev/null
)

# kubeconfig USER: for the certificate of that name.
kubeconfig() {
  local pki=$RUN/pki
  (umask 077; cat >"$RUN/$1.kubeconfig") <<E
apiVersion: v1
kind: Config
current-context: peernet-dev
clusters: [{name: peernet-dev, cluster: {server: "https://$GATEWAY:6443", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: peernet-dev, context: {cluster: peernet-dev, user: $1}}]
E
}

certificates() {
  local user names=DNS:localhost,IP:127.0.0.1,IP:$GATEWAY,IP:$SERVICES.0.1 n
  for n in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local; do names+=,DNS:$n; done
  mkdir -p "$RUN/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=peernet-dev-ca \
    -keyout "$RUN/pki/ca.key" -out "$RUN/pki/ca.crt" 2>/dev/null
  certificate apiserver /CN=kube-apiserver "$names"
  certificate admin /O=system:masters/CN=admin
  for user in kube-controller-manager kube-scheduler kube-proxy; do certificate "$user" "/CN=system:$user"; done
  for user in admin kube-controller-manager kube-scheduler kube-proxy; do kubeconfig "$user"; done
  openssl ecparam -name prime256v1 -genkey -noout -out "$RUN/pki/sa.key"
  openssl ec -in "$RUN/pki/sa.key" -pubout -out "$RUN/pki/sa.pub" 2>/dev/null
}

control_plane_up() {
  local pki=$RUN/pki etcd=http://127.0.0.1:2379
  certificates
  # Nothing here outlives `down`, so etcd need not wait for the disk.
  start control etcd etcd --data-dir="$RUN/etcd" --unsafe-no-fsync --listen-peer-urls=http://127.0.0.1:2380 \
    --listen-client-urls="$etcd" --advertise-client-urls="$etcd"
  start control kube-apiserver kube-apiserver --etcd-servers="$etcd" --advertise-address="$GATEWAY" --bind-address="$GATEWAY" \
    --service-cluster-ip-range="$SERVICES.0.0/16" --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key"
  until_ok 300 kubectl get --raw /readyz
  # A node counts as lost after 12 s rather than 50 s: tests that power nodes off wait for it.
  start control kube-controller-manager kube-controller-manager --kubeconfig="$RUN/kube-controller-manager.kubeconfig" \
    --leader-elect=false --bind-address=127.0.0.1 --root-ca-file="$pki/ca.crt" --use-service-account-credentials=true \
    --service-account-private-key-file="$pki/sa.key" --node-monitor-period=2s --node-monitor-grace-period=12s \
    --flex-volume-plugin-dir="$RUN/volume-plugins"
  start control kube-scheduler kube-scheduler --kubeconfig="$RUN/kube-scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1
  cat >"$RUN/Corefile" <<E
.:53 {
  bind $GATEWAY
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $RUN/admin.kubeconfig peernet-dev
    pods insecure
    ttl 5
  }
}
E
  start control coredns coredns -conf "$RUN/Corefile"
}

# Dynamic PersistentVolumes as the default StorageClass "standard": directories on the disk of the pod's node.
storage_up() {
  local n paths=()
  for n in $(seq "$NODES"); do paths+=("{\"node\": \"node$n\", \"paths\": [\"$RUN/n$n/volumes\"]}"); done
  (IFS=,; echo "{\"nodePathMap\": [${paths[*]}]}") >"$RUN/local-path.json"
  cat >"$RUN/volume-pod.yaml" <<E
apiVersion: v1
kind: Pod
metadata: {name: helper-pod}
spec: {containers: [{name: helper-pod, image: localhost/busybox:1, imagePullPolicy: Never}]}
E
  kubectl apply -f - <<E
apiVersion: v1
kind: Namespace
metadata: {name: local-path-storage}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: local-path-provisioner-service-account, namespace: local-path-storage}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: local-path-config, namespace: local-path-storage}
data:
  config.json: '$(cat "$RUN/local-path.json")'
  helperPod.yaml: |
$(sed 's/^/    /' "$RUN/volume-pod.yaml")
  setup: 'mkdir -m 0777 -p "\$VOL_DIR"'
  teardown: 'rm -rf "\$VOL_DIR"'
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
E
  start control local-path-provisioner local-path-provisioner start --config "$RUN/local-path.json" \
    --kubeconfig "$RUN/admin.kubeconfig" --helper-image localhost/busybox:1 --helper-pod-file "$RUN/volume-pod.yaml"
  until_ok 120 kubectl -n default get serviceaccount default # before it exists no pod can be made
} >/dev/null

# node_ready N [TIME]: the API server has heard so from the node itself, later than TIME when one is given.
node_ready() {
  local ready heard
  read -r ready heard < <(kubectl get node "node$1" \
    -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}')
  [ "$ready" = True ] && [[ $heard > ${2:-} ]]
}

all_ready() { local n; for n in $(seq "$NODES"); do node_ready "$n" || return 1; done; }

healthy() {
  local p running
  if ! kubectl get --raw /readyz >/dev/null 2>&1; then echo "the API server does not answer" >&2; return 1; fi
  if ! all_ready 2>/dev/null; then echo "a node is not ready" >&2; return 1; fi
  running=$(for p in $(processes control); do readlink "/proc/$p/exe"; done)
  for p in etcd kube-apiserver kube-controller-manager kube-scheduler coredns local-path-provisioner; do
    grep -qxF "$BIN/$p" <<<"$running" || { echo "not running: $p" >&2; return 1; }
  done
}
