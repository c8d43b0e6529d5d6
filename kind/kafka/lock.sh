#!/bin/sh
# Writes jars.lock: every jar that pom.xml needs at run time, as `group:artifact:version[:classifier] sha256`.
# To be run after a change of pom.xml, with Maven; what it wrote is then read by eye and committed.
set -eu
cd "$(dirname "$0")"
jars=$(mktemp -d)
trap 'rm -rf "$jars"' EXIT

mvn -B -q -ntp -f pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
	-DincludeScope=runtime -Dmdep.useRepositoryLayout=true -DoutputDirectory="$jars"

# A file is group/with/slashes/artifact/version/artifact-version[-classifier].jar.
lines() {
	(cd "$jars" && find . -name '*.jar' -printf '%P\n') | while read -r file; do
		folder=${file%/*} name=${file##*/}
		version=${folder##*/} folder=${folder%/*}
		artifact=${folder##*/} group=$(echo "${folder%/*}" | tr / .)
		classifier=${name#"$artifact-$version"} classifier=${classifier%.jar}
		sum=$(sha256sum "$jars/$file")
		echo "$group:$artifact:$version${classifier:+:${classifier#-}} ${sum%% *}"
	done
}
{
	echo '# Written by kind/kafka/lock.sh from pom.xml.'
	lines | LC_ALL=C sort
} >jars.lock
