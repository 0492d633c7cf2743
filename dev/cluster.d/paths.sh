# Where dev/cluster build puts things; sourced by every script that uses them.
# shellcheck shell=bash disable=SC2034

CACHE=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-${HOME:-~}/.cache}/peernet-cluster}
BIN=$CACHE/bin         # compiled programs
IMAGES=$CACHE/images   # the two images the cluster itself needs
SCHEMAS=$CACHE/schemas # one JSON schema per Kubernetes kind
PATH=$BIN:$PATH:/usr/sbin:/sbin
