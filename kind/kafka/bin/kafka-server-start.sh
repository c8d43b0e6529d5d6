#!/bin/sh
# Starts a server in the foreground: kafka-server-start.sh server.properties [--override property=value]…
set -eu

if [ $# -lt 1 ]; then
	echo "usage: $0 server.properties [--override property=value]..." >&2
	exit 1
fi
bin=$(dirname "$0")
export KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G}"
export KAFKA_LOG4J_OPTS="${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=$bin/../config/log4j2.yaml}"
# Many short-lived buffers, and clients that wait for an answer.
tuning="-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35"
export KAFKA_JVM_PERFORMANCE_OPTS="${KAFKA_JVM_PERFORMANCE_OPTS:-$tuning}"
exec "$bin/kafka-run-class.sh" kafka.Kafka "$@"
