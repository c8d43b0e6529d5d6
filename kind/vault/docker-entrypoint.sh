#!/bin/sh
# Starts Vault as the upstream image does: `server` reads /vault/config, a command of Vault's is run by Vault, and
# anything else is run as it is. Honours VAULT_LOCAL_CONFIG, VAULT_DEV_ROOT_TOKEN_ID, VAULT_DEV_LISTEN_ADDRESS, and
# SKIP_CHOWN when started as root. SKIP_SETCAP has nothing to skip: the program has no capabilities, so that without
# IPC_LOCK a server needs `disable_mlock`.
set -eu
ulimit -c 0

if [ -n "${VAULT_LOCAL_CONFIG:-}" ]; then
	printf '%s\n' "$VAULT_LOCAL_CONFIG" >/vault/config/local.json
fi
case ${1:-} in
-* | version) set -- vault "$@" ;;
server)
	shift
	set -- vault server -config=/vault/config -dev-root-token-id="${VAULT_DEV_ROOT_TOKEN_ID:-}" \
		-dev-listen-address="${VAULT_DEV_LISTEN_ADDRESS:-0.0.0.0:8200}" "$@"
	;;
*)
	# Vault's help fails for its own commands too: only what it says tells them from others.
	if vault --help "${1:-}" 2>&1 | grep -q "vault ${1:-}"; then
		set -- vault "$@"
	fi
	;;
esac
if [ "${1:-}" = vault ] && [ "$(id -u)" = 0 ]; then
	[ -n "${SKIP_CHOWN:-}" ] || chown -R vault:vault /vault/config /vault/file /vault/logs
	# Everything after `--` goes to a shell, which passes the arguments on as they are.
	set -- su -p -s /bin/sh -c 'exec "$@"' -- vault sh "$@"
fi
exec "$@"
