# Takes a base backup into the folder $NOTE names, extracts it there, checks every file of it against the manifest, and,
# where $VERIFY is true, starts a server on it that nobody else can reach.
set -eu
umask 077
partial="$(cat "$NOTE")"
scratch="$partial/scratch"
socket="${TMPDIR:-/tmp}/backup-$$"
data="$scratch/data"
finish() {
  status=$?
  if [ -e "$data/postmaster.pid" ]; then pg_ctl -D "$data" -m immediate stop >/dev/null 2>&1 || true; fi
  rm -rf "$scratch" "$socket"
  # What failed must not stand in the way of the next attempt.
  if [ "$status" -ne 0 ]; then rm -rf "$partial"; fi
}
trap finish EXIT

PGPASSWORD="$(cat "$PASSWORD_FILE")"
export PGPASSWORD
pg_basebackup --pgdata="$partial" --format=tar --gzip --wal-method=stream --checkpoint=fast \
  --manifest-checksums=SHA256 --no-password --label=soma
unset PGPASSWORD

mkdir -p "$data" "$socket"
tar -xzf "$partial/base.tar.gz" -C "$data"
tar -xzf "$partial/pg_wal.tar.gz" -C "$data/pg_wal"
pg_verifybackup --quiet --manifest-path="$partial/backup_manifest" "$data"
echo "version=$(cat "$data/PG_VERSION")" >"$partial/facts"
echo "checked=pg_verifybackup" >>"$partial/facts"
[ "$VERIFY" = true ] || exit 0

echo "local all all trust" >"$scratch/hba"
pg_ctl -D "$data" -w -t 3600 -s -l "$scratch/log" start \
  -o "-c listen_addresses='' -c unix_socket_directories='$socket' -c hba_file='$scratch/hba' -c shared_buffers=32MB -c archive_mode=off -c fsync=off" \
  || { cat "$scratch/log" >&2; exit 1; }
ask() { PGHOST="$socket" PGOPTIONS="" psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }
count=0
relations=0
for database in $(ask postgres "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname"); do
  found="$(ask "$database" "SELECT count(*) FROM pg_class")"
  count=$((count + 1))
  relations=$((relations + found))
done
if command -v pg_amcheck >/dev/null; then
  PGHOST="$socket" pg_amcheck --all --install-missing --no-strict-names
  echo "checked=pg_verifybackup, pg_amcheck" >>"$partial/facts"
fi
pg_ctl -D "$data" -w -s -m fast stop
echo "restored=$count databases with $relations relations" >>"$partial/facts"
