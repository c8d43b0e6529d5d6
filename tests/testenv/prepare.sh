#!/usr/bin/env bash
# What must be there before cargo can build anything: names what is missing and how to get it, and installs
# what Debian has when run as root. `prepare.sh doctor` only tells.
set -euo pipefail

missing=0
need() { # program, Debian package, where it comes from otherwise
  command -v "$1" >/dev/null && return
  if [ "${mode:-}" != doctor ] && [ -n "$2" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $2 (for $1)"
    { [ -n "$(find /var/lib/apt/lists -name '*Packages*' -print -quit 2>/dev/null)" ] || apt-get update -qq; } >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null && return
  fi
  echo "missing: $1. Get it with: $3" >&2
  missing=1
}

mode=${1:-}
need cargo "" "rustup toolchain install 1.95 (rustup.rs)"
need cc gcc "apt-get install gcc"
need go "" "Go 1.26 or later (go.dev/dl)"
need python3 python3-pip "apt-get install python3 python3-pip"
exit $missing
