#!/usr/bin/env bash
# Prints what the chart takes from a registry: etcd's image and kubectl's, a line each.
set -euo pipefail

values=$(dirname "$0")/../../../deploy/chart/clustermesh/values.yaml
for image in etcd kubectl; do
    sed -n "/^images:/,/^[a-z]/s/^  $image: *//p" "$values"
done
