#!/bin/sh
# Runs one class of Apache Kafka: kafka-run-class.sh class [argument…]
# Honours JAVA_HOME, KAFKA_HEAP_OPTS, KAFKA_JVM_PERFORMANCE_OPTS, KAFKA_LOG4J_OPTS, KAFKA_OPTS and LOG_DIR as the script
# of the distribution does. The jars are those of CLASSPATH and of the folder libs beside bin.
set -eu

if [ $# -lt 1 ]; then
	echo "usage: $0 class [argument...]" >&2
	exit 1
fi
home=$(dirname "$0")/..
java=java
[ -z "${JAVA_HOME:-}" ] || java=$JAVA_HOME/bin/java

# A command that ends soon is not worth the better compiler. PerfDisableSharedMem: nothing is written to /tmp.
tuning=${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1}
log4j=${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=$home/config/tools-log4j2.yaml}

# Each variable holds several words.
# shellcheck disable=SC2086
exec "$java" ${KAFKA_HEAP_OPTS:--Xmx256M} $tuning -XX:+PerfDisableSharedMem -Djava.awt.headless=true \
	"-Dkafka.logs.dir=${LOG_DIR:-$home/logs}" $log4j \
	-cp "${CLASSPATH:+$CLASSPATH:}$home/libs/*" ${KAFKA_OPTS:-} "$@"
