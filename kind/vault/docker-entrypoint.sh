#!/bin/sh
# The part of the upstream entry point that a cluster relies on: `server` reads /vault/config, and everything else is a
# command of Vault's.
set -e
if [ -n "$VAULT_LOCAL_CONFIG" ]; then
  printf '%s\n' "$VAULT_LOCAL_CONFIG" >/vault/config/local.json
fi
if [ "$1" = server ]; then
  shift
  set -- server -config=/vault/config "$@"
fi
exec vault "$@"
