#!/usr/bin/env bash
# Runs every fuzz target of the repository, one after the other.
# usage: hack/fuzz.sh [TIME]     (for each target; default 30s)
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
count=0
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		count=$((count + 1))
		echo "== $pkg $target ($time)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$pkg"
	done
done
if [ "$count" -eq 0 ]; then
	echo "fuzz: no target was found" >&2
	exit 1
fi
echo "fuzz: $count targets, nothing found"
