# Extracts the backup $BACKUP into $DATA, which must not exist, or come from an attempt that was interrupted.
set -eu
umask 077
from="$FOLDER/$BACKUP"
begun="$DATA.restoring"
if [ ! -e "$from/record.json" ]; then
  echo "there is no complete backup $BACKUP; there are: $(cd "$FOLDER" && echo *)" >&2
  exit 1
fi
if [ -e "$DATA" ] && [ ! -e "$begun" ]; then
  echo "the volume holds data already, and a restore never overwrites any; delete the claim to restore into an empty one" >&2
  exit 1
fi
: >"$begun"
rm -rf "$DATA"
mkdir "$DATA"
tar -xzf "$from/base.tar.gz" -C "$DATA"
tar -xzf "$from/pg_wal.tar.gz" -C "$DATA/pg_wal"
pg_verifybackup --quiet --manifest-path="$from/backup_manifest" "$DATA"
sync
rm "$begun"
echo "backup $BACKUP is restored"
