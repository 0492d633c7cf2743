# What must be there before the first `up`: Debian packages, compiled programs, two images; and what the chart and the
# gRPC interface are checked with. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034,SC2154,SC2317  # settings come from and go to dev/cluster; some functions are called by name

K8S=v1.34.4 # the version that tools/kubernetes/go.mod names
PACKAGES=(buildah busybox-static containerd containernetworking-plugins curl gcc iproute2 jq libc6-dev nftables openssl
  python3-venv rabbitmq-server runc shellcheck tmux util-linux)
KUBERNETES=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
PROGRAMS=("${KUBERNETES[@]}" etcd coredns helm local-path-provisioner)
SYSTEM_IMAGES=(pause busybox)

build() {
  install_packages
  command -v go >/dev/null || fail "missing: go - install Go 1.26 or newer; it compiles Kubernetes"
  mkdir -p "$BIN" "$IMAGES"
  local stamp=k8s.io/component-base/version c
  local version="-X $stamp.gitVersion=$K8S -X $stamp.gitMajor=1 -X $stamp.gitMinor=34"
  for c in "${KUBERNETES[@]}"; do compile kubernetes "$c" "k8s.io/kubernetes/cmd/$c" "$version"; done
  compile etcd etcd go.etcd.io/etcd/server/v3
  compile coredns coredns github.com/coredns/coredns
  local h=helm.sh/helm/v3/pkg # which Kubernetes `helm template` and `helm lint` speak of
  compile helm helm helm.sh/helm/v3/cmd/helm "-X $h/chartutil.k8sVersionMajor=1 -X $h/chartutil.k8sVersionMinor=34 \
-X $h/lint/rules.k8sVersionMajor=1 -X $h/lint/rules.k8sVersionMinor=34"
  compile local-path local-path-provisioner github.com/rancher/local-path-provisioner
  compile chart kubeconform github.com/yannh/kubeconform/cmd/kubeconform
  compile chart kube-score github.com/zegl/kube-score/cmd/kube-score
  compile grpc grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl
  pause_image
  busybox_image
  schemas
}

install_packages() {
  local p missing=()
  for p in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || fail "missing packages: ${missing[*]} - they are installed with apt-get, which is not here"
  again apt-get update -q
  # Tests start what they need themselves: no package is to start a service, a broker for example (policy-rc.d(8)).
  (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
      trap 'rm -f $policy' EXIT
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod +x $policy
    fi
    DEBIAN_FRONTEND=noninteractive again apt-get install -y -q --no-install-recommends "${missing[@]}"
  )
}

# again COMMAND...: what downloads is tried three times, as a mirror may be away for a moment.
again() {
  local tries
  for tries in 1 2 3; do
    "$@" && return
    [ $tries = 3 ] || { echo "dev/cluster: failed, tried again in 10 s: $*" >&2; sleep 10; }
  done
  return 1
}

# compile MODULE PROGRAM PACKAGE [linker flags]: skipped while neither the module's files nor the flags changed.
compile() {
  local dir=$HERE/tools/$1 out=$BIN/$2 want
  want=$(cat "$dir/go.mod" "$dir/go.sum" - <<<"$3 ${4:-}" | sha256sum)
  [ -x "$out" ] && [ "$(cat "$out.sum" 2>/dev/null)" = "$want" ] && return
  echo "compiling $2" >&2
  (cd "$dir" && again go build -ldflags="-s -w ${4:-}" -o "$out" "$3")
  echo "$want" >"$out.sum"
}

# The first process of every pod: sleeps, reaps, stops when asked.
pause_image() {
  [ -f "$IMAGES/pause.tar" ] && return
  local d; d=$(mktemp -d)
  gcc -Os -static -s -o "$d/pause" -x c - <<'C'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap); for (;;) pause(); }
C
  printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >"$d/Dockerfile"
  bake "$IMAGES/pause.tar" localhost/pause:1 "$d"
  rm -rf "$d"
}

# What the volume provisioner's helper pods run; handy as a client in tests too.
busybox_image() {
  [ -f "$IMAGES/busybox.tar" ] && return
  local d a; d=$(mktemp -d); mkdir -p "$d/root/bin" "$d/root/tmp"
  cp /bin/busybox "$d/root/bin/busybox"
  for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "$d/root/bin/$a"; done
  chmod 1777 "$d/root/tmp"
  printf 'FROM scratch\nCOPY root/ /\nENV PATH=/bin\nCMD ["/bin/sh"]\n' >"$d/Dockerfile"
  bake "$IMAGES/busybox.tar" localhost/busybox:1 "$d"
  rm -rf "$d"
}

# One strict JSON schema per kind, from the API description that comes with the Kubernetes module; for kubeconform.
schemas() {
  local dir=$SCHEMAS spec group version kind name
  [ "$(cat "$dir/version" 2>/dev/null)" = "$K8S" ] && return
  spec=$(cd "$HERE/tools/kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/api/openapi-spec/swagger.json
  rm -rf "$dir"; mkdir -p "$dir"
  jq -c '{definitions: (.definitions | map_values(
      if has("properties") and (has("additionalProperties") | not) then .additionalProperties = false else . end)
    | ."io.k8s.apimachinery.pkg.api.resource.Quantity".type = ["string", "number"]
    | walk(if type != "object" then .
      elif .format? == "int-or-string" then .type = ["string", "integer"]
      elif (."$ref"? | type) == "string" then ."$ref" |= sub("^#"; "definitions.json#")
      else . end))}' "$spec" >"$dir/definitions.json"
  jq -r '.definitions | to_entries[] | .key as $name | .value."x-kubernetes-group-version-kind" // [] | .[]
    | [if .group == "" then .version else .group end, .version, (.kind | ascii_downcase), $name] | @tsv' "$dir/definitions.json" |
    while read -r group version kind name; do
      echo "{\"\$ref\": \"definitions.json#/definitions/$name\"}" >"$dir/$kind-$group-$version.json"
    done
  echo "$K8S" >"$dir/version"
}
