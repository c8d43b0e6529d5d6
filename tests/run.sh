#!/usr/bin/env bash
# `make test`: every tier in order, real servers included; ends with what ran, and what did not by name.
# `tests/run.sh e2e` runs the end-to-end tier and, on three nodes, the faults of machines.
set -uo pipefail
cd "$(dirname "$0")/.."
bash tests/testenv/prepare.sh || exit 1

passed=0 failed=0 broken=() ignored=()
# What the build step builds is what the tests run.
export SOMA_BIN_DIR=${CARGO_TARGET_DIR:-$PWD/target}/debug
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

step() { # name, command...: runs it and counts the tests in its output
  local name=$1 begin=$SECONDS status p f
  shift
  echo "== $name"
  "$@" 2>&1 | tee "$work/log"
  status=${PIPESTATUS[0]}
  p=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$work/log")
  f=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$work/log")
  while read -r test; do ignored+=("$test"); done < <(awk '/^test .* \.\.\. ignored/ {print $2}' "$work/log")
  if [ "$status" != 0 ]; then
    broken+=("$name")
    [ "$f" = 0 ] && f=1 # a build or a process failed before any test could
  fi
  passed=$((passed + p)) failed=$((failed + f))
  echo "== $name: $p passed, $f failed, $((SECONDS - begin)) s"
}

# One build for all tiers, so that every dependency is compiled once; then one line per test program.
build() {
  cargo build --workspace --tests --bins &&
    cargo test --workspace --no-run --message-format=json-render-diagnostics >"$work/artifacts" &&
    python3 - "$work/artifacts" >"$work/programs" <<'PY'
import json, os, sys
for line in open(sys.argv[1]):
    artifact = json.loads(line)
    if artifact.get("profile", {}).get("test") and artifact.get("executable"):
        print(os.path.dirname(artifact["manifest_path"]), artifact["executable"])
PY
}

tier() { # pattern of package folders: runs their test programs, each from its own folder as cargo does
  local status=0 folder program
  while read -r folder program; do
    echo "-- ${folder#"$PWD"/}: $(basename "$program")"
    (cd "$folder" && CARGO_MANIFEST_DIR=$folder "$program" --quiet 2>&1) || status=1
  done < <(grep -E "^$PWD/($1) " "$work/programs")
  return $status
}

summary() {
  echo
  for name in ${broken[@]+"${broken[@]}"}; do echo "failed: $name"; done
  [ "${1:-}" = e2e ] || echo "not run, because it takes long: tests/faults (make e2e)"
  for name in ${ignored[@]+"${ignored[@]}"}; do echo "not run: $name"; done
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

step build build
[ "$failed" = 0 ] || { summary "$@"; exit 1; }
step fetch "$SOMA_BIN_DIR/testenv" fetch all
if [ "${1:-}" != e2e ]; then
  step "unit and contract" tier 'crds|operator|proto|services/[a-z]+|tests/bench'
  step "test ground" tier tests/testenv
  step control-plane tier tests/control-plane
  step runtime tier tests/runtime
fi
step end-to-end tier tests/e2e
[ "${1:-}" = e2e ] && step faults tier tests/faults
summary "$@"
