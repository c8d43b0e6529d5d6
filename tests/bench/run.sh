#!/usr/bin/env bash
# `make bench`: every figure of docs/benchmarks.md, measured on this machine. TEXTS names a file of conversations
# (the format of `soma memory import`) for the embedding bench; by default the project's own example.
set -euo pipefail
cd "$(dirname "$0")/../.."
bash tests/testenv/prepare.sh
# The build that `make dev` and `make up` run: what computes is fully optimised in it.
cargo build --workspace --bins
bin=${CARGO_TARGET_DIR:-$PWD/target}/debug
export SOMA_BIN_DIR=$bin
"$bin/testenv" fetch all
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: /machine: /'
echo "cores: $(nproc), memory: $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"

echo "== soma dev"
work=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
"$bin/soma" dev -f examples/quickstart --folder "$work/soma" --http 127.0.0.1:19595 --grpc 127.0.0.1:19596 >"$work/log" 2>&1 &
pid=$!
until grep -q '^serving' "$work/log"; do kill -0 "$pid" || { cat "$work/log"; exit 1; }; sleep 0.05; done
sleep 5
grep -o 'ready in .* s' "$work/log"
awk '/VmRSS/ {printf "idle: %.0f MB resident\n", $2 * 1024 / 1e6}' "/proc/$pid/status"
kill "$pid" && wait "$pid"

echo "== embedding"
"$bin/soma-bench" embed "${TEXTS:-examples/data/greenhouse.json}"
echo "== store and recall"
"$bin/soma-bench" memory
echo "== cluster"
"$bin/soma-bench" cluster
echo "== many MemoryNamespaces"
"$bin/soma-bench" namespaces
