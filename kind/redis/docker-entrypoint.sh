#!/bin/sh
# Starts Redis as the upstream image does: options or a configuration file are for the server, and anything else is run
# as it is. It never starts as root, so that there are no rights to give up.
set -eu
case ${1:-} in
-* | *.conf) set -- redis-server "$@" ;;
esac
# Data of the server is for nobody else, unless the caller wants it otherwise.
if [ "${1:-}" = redis-server ] && [ "$(umask)" = 0022 ]; then
	umask 0077
fi
exec "$@"
