#!/bin/sh
# Starts PostgreSQL as the upstream image does: an empty PGDATA is initialised from the environment first.
# Honours POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD (each of the
# first four also as NAME_FILE), PGDATA, and the *.sql and *.sh files of /docker-entrypoint-initdb.d.
set -eu

fail() {
	echo "error: $*" >&2
	exit 1
}

# Sets the variable $1 from the file named by $1_FILE, or to the default $2.
file_env() {
	eval "value=\${$1:-}; file=\${$1_FILE:-}"
	[ -z "$value" ] || [ -z "$file" ] || fail "both $1 and $1_FILE are set"
	[ -z "$file" ] || value=$(cat "$file")
	[ -n "$value" ] || value=${2:-}
	export "$1=$value"
	unset "$1_FILE"
}

# Initialises in a folder inside PGDATA, which may be a mount point, and moves the result up with the version file
# last: a start that was cut off is started over.
initialise() {
	umask 077
	mkdir -p "$PGDATA"
	new=$PGDATA/.new
	rm -rf "$new" "$PGDATA"/*
	mkdir "$new"
	auth=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	pwfile=
	if [ -n "$POSTGRES_PASSWORD" ]; then
		pwfile="--pwfile=$PGDATA/.password"
		printf '%s\n' "$POSTGRES_PASSWORD" >"$PGDATA/.password"
	fi
	# POSTGRES_INITDB_ARGS holds several words.
	# shellcheck disable=SC2086
	initdb --pgdata="$new" --username="$POSTGRES_USER" --auth-local=trust --auth-host="$auth" $pwfile $POSTGRES_INITDB_ARGS
	rm -f "$PGDATA/.password"
	printf '\nhost all all all %s\n' "$auth" >>"$new/pg_hba.conf"
	printf "\nlisten_addresses = '*'\n" >>"$new/postgresql.conf"

	# No address, and a socket of its own: only this script speaks to the server while it is set up.
	pg_ctl -D "$new" -o "-c listen_addresses='' -c unix_socket_directories=/tmp" -w start
	if [ "$POSTGRES_DB" != postgres ]; then
		printf 'CREATE DATABASE :"name";\n' | setup_psql -d postgres -v name="$POSTGRES_DB"
	fi
	for script in /docker-entrypoint-initdb.d/*; do
		case $script in
		*.sql) setup_psql -d "$POSTGRES_DB" -f "$script" ;;
		*.sh) PGHOST=/tmp . "$script" ;;
		esac
	done
	pg_ctl -D "$new" -m fast -w stop

	mv "$new/PG_VERSION" "$PGDATA/.version"
	mv "$new"/* "$PGDATA/"
	rmdir "$new"
	chmod 0700 "$PGDATA" || :
	mv "$PGDATA/.version" "$PGDATA/PG_VERSION"
}

setup_psql() {
	psql -h /tmp -X -q -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" "$@"
}

[ "${1#-}" = "$1" ] || set -- postgres "$@"
if [ "$1" = postgres ]; then
	file_env POSTGRES_PASSWORD
	file_env POSTGRES_USER postgres
	file_env POSTGRES_DB "$POSTGRES_USER"
	file_env POSTGRES_INITDB_ARGS
	if [ ! -s "$PGDATA/PG_VERSION" ]; then
		[ -n "$POSTGRES_PASSWORD" ] || [ "${POSTGRES_HOST_AUTH_METHOD:-}" = trust ] ||
			fail "the database is not initialised and POSTGRES_PASSWORD is empty"
		initialise
	fi
fi
exec "$@"
