# Images without a Docker engine. Sourced by dev/cluster and dev/images.
# shellcheck shell=bash

# bake ARCHIVE TAG CONTEXT [buildah option...]: builds an image from a Dockerfile and writes it as a docker archive.
# Its storage is thrown away afterwards: the images are FROM scratch, so there is no layer worth keeping.
bake() (
  set -euo pipefail
  archive=$1 tag=$2 context=$3; shift 3
  store=$(mktemp -d); trap 'rm -rf "$store"' EXIT
  buildah=(buildah --storage-driver vfs --root "$store/root" --runroot "$store/run")
  "${buildah[@]}" bud --isolation chroot --quiet --tag "$tag" "$@" "$context" >/dev/null
  rm -f "$archive"
  "${buildah[@]}" push --quiet "$tag" "docker-archive:$archive:$tag"
)
