#!/bin/sh
# What the DaemonSet mounts and no file here holds: keys are yours, or made on the spot.
#
#   ./secrets.sh DIR      DIR has server.pem, server.key and clients-ca.pem
#   ./secrets.sh --trial  makes such a directory, for a trial
#
# Prints manifests: ./secrets.sh DIR | kubectl apply -f -
#
# The secret of ticket keys is made where the cluster has none, and with --new-stek before the rest:
# another one costs every client a full handshake, which renewing a certificate must not.
set -eu
namespace=${NAMESPACE:-ringgate}

is_stek_new=
if [ "${1:-}" = --new-stek ]; then
    is_stek_new=yes
    shift
fi
if [ $# -ne 1 ]; then
    echo "usage: $0 [--new-stek] DIR|--trial" >&2
    exit 2
fi
umask 077
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

from=$1
if [ "$from" = --trial ]; then
    from=$scratch/pki
    ringgate-loadgen pki "$from" --clients 10 >&2
    mv "$from/client-ca.pem" "$from/clients-ca.pem"
    # The load generator's side of it.
    set -- "$from"/ca.pem "$from"/client-[0-9]*
    echo "---"
    kubectl create secret generic ringgate-loadgen --namespace "$namespace" \
        $(printf -- '--from-file=%s ' "$@") --dry-run=client -o yaml
fi
# A cluster that does not answer is no cluster without one.
there=$(kubectl get secret ringgate-stek --namespace "$namespace" --ignore-not-found -o name)
if [ -n "$is_stek_new" ] || [ -z "$there" ]; then
    # The same at each pod, so that a client may resume at any of them.
    ringgate stek new "$scratch/stek.key" >&2
    echo "---"
    kubectl create secret generic ringgate-stek --namespace "$namespace" \
        --from-file="$scratch/stek.key" --dry-run=client -o yaml
fi

echo "---"
kubectl create secret generic ringgate-server --namespace "$namespace" \
    --from-file="$from/server.pem" --from-file="$from/server.key" --dry-run=client -o yaml
echo "---"
kubectl create configmap ringgate-clients --namespace "$namespace" \
    --from-file="$from/clients-ca.pem" --dry-run=client -o yaml
