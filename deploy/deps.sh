#!/bin/sh
# Installs the Debian packages that are missing, and says which.
#
#   deps.sh build          what `make` and `make run` need
#   deps.sh build test     what `make test` needs beside them
#   deps.sh build test fuzz    and `make fuzz`
#   deps.sh build cluster  what `make run-cluster` needs
#
# Nothing is installed twice; sudo is used when the caller is not root.  Tests
# and `make run-cluster` start an etcd of their own: where this script is what
# installed etcd-server, its system service does not stay on.
set -eu

packages=""
for group in "$@"; do
    case "$group" in
    build) packages="$packages gcc make pkg-config libc6-dev libzmq3-dev
        libprotobuf-c-dev protobuf-c-compiler libopenblas0-serial libuv1-dev
        libcurl4-openssl-dev libjansson-dev libpcre2-dev libutf8proc-dev
        libxxhash-dev libssl-dev libhwloc-dev" ;;
    test) packages="$packages libcmocka-dev python3 python3-jinja2 etcd-server
        etcd-client openssl patch git procps iproute2" ;;
    cluster) packages="$packages etcd-server python3" ;;
    fuzz) packages="$packages clang libclang-rt-14-dev" ;;
    *) echo "deps.sh: unknown group '$group'" >&2; exit 2 ;;
    esac
done

missing=""
for package in $packages; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
        { echo "deps.sh: not root and no sudo: install$missing" >&2; exit 1; }
    sudo=sudo
fi
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words on purpose
$sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing >/dev/null

case "$missing " in
*" etcd-server "*)
    if [ -d /run/systemd/system ]; then
        $sudo systemctl disable --now --quiet etcd.service || true
    fi ;;
esac
