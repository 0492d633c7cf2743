# A node: its disk, its power switch and its network cable. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034,SC2154,SC2317  # settings come from and go to dev/cluster; some functions are called by name

# Places outside its own disk that a node writes to; its first process mounts directories of its disk over them.
MOUNT_POINTS=(/var/lib/cni /var/lib/kubelet /var/log/pods /var/log/containers)

# make_disk N: everything that survives a power-off, in n$N/.
make_disk() {
  local n=$1 disk=$RUN/n$1 d
  mkdir -p "$disk"/{cni,volumes}
  for d in "${MOUNT_POINTS[@]}"; do mkdir -p "$disk$d"; done
  cat /etc/resolv.conf >"$disk/resolv.conf" 2>/dev/null || : >"$disk/resolv.conf"
  certificate "node$n" "/O=system:nodes/CN=system:node:node$n" "DNS:node$n,IP:10.99.0.1$n"
  kubeconfig "node$n"
  # restrict_oom_score_adj: a root without CAP_SYS_RESOURCE may not lower a process's score, and no sandbox would start
  cat >"$disk/containerd.toml" <<E
version = 2
root = "$disk/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "$disk/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$disk/cni"
E
  cat >"$disk/cni/10-pods.conflist" <<E
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$disk/ipam", "ranges": [[{"subnet": "$PODS.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
E
  # failCgroupV1 and failSwapOn: run on the machine as it is
  cat >"$disk/kubelet.yaml" <<E
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $RUN/pki/node$n.crt
tlsPrivateKeyFile: $RUN/pki/node$n.key
cgroupDriver: cgroupfs
cgroupRoot: /peernet-n$n
failCgroupV1: false
failSwapOn: false
clusterDNS: [$GATEWAY]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$disk/containerd.sock
volumePluginDir: $disk/volume-plugins
resolvConf: $disk/resolv.conf
maxPods: 250
nodeStatusUpdateFrequency: 4s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
E
  cat >"$disk/kube-proxy.yaml" <<E
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $PODS.0.0/16
clientConnection: {kubeconfig: $RUN/kube-proxy.kubeconfig}
hostnameOverride: node$n
conntrack: {maxPerCore: 0}
E
}

ctr_on() { local n=$1; shift; ctr --address "$RUN/n$n/containerd.sock" --namespace k8s.io "$@"; }

# The host's id of a node's first process: it is process 1 in a PID namespace directly below ours.
first_process() {
  local pid
  for pid in $(processes "n$1"); do
    awk '$1 == "NSpid:" && $NF == 1 && NF == 3 {found = 1} END {exit !found}' "/proc/$pid/status" 2>/dev/null && echo "$pid" && return
  done
  return 1
}

cgroups_of() { # N: one in each v1 hierarchy, or the one of v2
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo "/sys/fs/cgroup/peernet-n$1"; return; fi
  local c
  for c in /sys/fs/cgroup/*/; do echo "${c}peernet-n$1"; done
}

make_cgroups() {
  local c f
  for c in $(cgroups_of "$1"); do
    mkdir -p "$c"
    [ -f "$c/cgroup.controllers" ] && continue
    for f in cpuset.cpus cpuset.mems; do # v1: empty in a new group, and then nothing may enter it
      [ ! -f "$c/$f" ] || cat "$c/../$f" >"$c/$f"
    done
  done
}

# remove_cgroups [N]: of one node or of all; a group can be removed once the kernel has let go of its last process.
remove_cgroups() {
  local n c
  gone() { [ ! -d "$1" ] || { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d "$1" ]; }; }
  for n in ${1:-$(seq 9)}; do
    for c in $(cgroups_of "$n"); do until_ok 60 gone "$c"; done
  done
}

power_on() {
  local n=$1 disk=$RUN/n$1 d image
  make_cgroups "$n"
  for d in "${MOUNT_POINTS[@]}"; do [ -d "$d" ] || { mkdir -p "$d"; echo "$d" >>"$RUN/mount-points"; }; done
  rm -f "$disk/containerd.sock"
  start "n$n" "node$n" unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
    "$HERE/cluster.d/boot" "$n" "$NODES" "$disk" "$RUN" "$GATEWAY" "$PODS" "${MOUNT_POINTS[@]}"
  until_ok 60 first_process "$n"
  ip link add "peernet-n$n" type veth peer name eth0 netns "$(first_process "$n")"
  ip link set "peernet-n$n" master "$BRIDGE" up
  ip route replace "$PODS.$n.0/24" via "10.99.0.1$n"
  until_ok 120 ctr_on "$n" version
  for image in "${SYSTEM_IMAGES[@]}"; do ctr_on "$n" images import "$IMAGES/$image.tar" >/dev/null; done
}

power_off() { # N
  stop "n$1"
  ip link del "peernet-n$1" 2>/dev/null || true
  remove_cgroups "$1"
}

power_off_all() {
  local n
  stop control
  for n in $(seq 9); do stop "n$n"; done
}

remove_mount_points() { # those that power_on had to make
  [ -f "$RUN/mount-points" ] || return 0
  sort -ru "$RUN/mount-points" | while read -r d; do rmdir "$d" 2>/dev/null || true; done
}

node_power() { if first_process "$1" >/dev/null; then echo on; else echo off; fi; }

node_cable() {
  case $(cat "/sys/class/net/peernet-n$1/flags" 2>/dev/null || echo none) in
    none) echo - ;;
    *[13579bdf]) echo in ;; # the last bit is IFF_UP
    *) echo out ;;
  esac
}

cable() { # N up|down
  [ -e "/sys/class/net/peernet-n$1" ] || fail "node$1 is off - switch it on: dev/cluster start-node $1"
  ip link set "peernet-n$1" "$2"
}

in_network() { local n=$1; shift; nsenter --target "$(first_process "$n")" --net "$@"; }

# cut_pods N in|out|both: a firewall of its own in the node's network, in front of whatever kube-proxy has there.
cut_pods() {
  local n=$1 range=$PODS.0.0/16 in='' out=''
  first_process "$n" >/dev/null || fail "node$n is off - switch it on: dev/cluster start-node $n"
  case $2 in in | both) in="iifname eth0 ip saddr $range drop" ;; esac
  case $2 in out | both) out="oifname eth0 ip daddr $range drop" ;; esac
  [ -n "$in$out" ] || fail "cut-pods needs a direction: in, out or both"
  in_network "$n" nft -f - <<E
table ip peernet-cut
delete table ip peernet-cut
table ip peernet-cut {
  chain forward {
    type filter hook forward priority -10
    $in
    $out
  }
}
E
}

heal_pods() { in_network "$1" nft -f - <<<'table ip peernet-cut; delete table ip peernet-cut'; }

# load ARCHIVE...: on all nodes that are on, side by side.
load() {
  local n tar jobs=() rc=0
  for tar in "$@"; do [ -f "$tar" ] || fail "no such image archive: $tar"; done
  for n in $(seq "$NODES"); do
    if ! first_process "$n" >/dev/null; then echo "dev/cluster: node$n is off and got no image" >&2; continue; fi
    (set -e; for tar in "$@"; do ctr_on "$n" images import "$tar" >/dev/null; done) & jobs+=($!)
  done
  for n in "${jobs[@]}"; do wait "$n" || rc=1; done
  [ $rc = 0 ] || fail "an image archive could not be imported"
}
