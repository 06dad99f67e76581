#!/usr/bin/env bash
# A CrowdSec of its own under TREE: configuration, data and database, with the parser and the two scenarios beside this
# script. Nothing outside TREE is used but Debian's package, which lies unpacked in PACKAGE.
#
#   ./tree.sh TREE PACKAGE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$1
package=$2
address=127.0.0.1:${BENCH_CROWDSEC_PORT:-18080}

rm -rf "$tree"
mkdir -p "$tree"/{data,log,plugins,etc/{parsers/{s00-raw,s01-parse,s02-enrich},scenarios,notifications}}
cp -r "$package/etc/crowdsec/patterns" "$package/etc/crowdsec/simulation.yaml" "$package/etc/crowdsec/profiles.yaml" "$tree/etc/"
cp -r "$package/usr/share/crowdsec/hub" "$tree/hub"
echo '{}' >"$tree/etc/console.yaml"
: >"$tree/etc/acquis.yaml"
cat >"$tree/etc/config.yaml" <<Y
common: {daemonize: false, log_media: file, log_level: warning, log_dir: $tree/log/, working_dir: $tree}
config_paths:
  config_dir: $tree/etc/
  data_dir: $tree/data/
  simulation_path: $tree/etc/simulation.yaml
  hub_dir: $tree/hub/
  index_path: $tree/hub/.index.json
  notification_dir: $tree/etc/notifications/
  plugin_dir: $tree/plugins/
crowdsec_service: {acquisition_path: $tree/etc/acquis.yaml, parser_routines: 1}
cscli: {output: human}
db_config:
  log_level: warning
  type: sqlite
  db_path: $tree/data/crowdsec.db
  use_wal: true
  flush: {max_items: 500000, max_age: 7d}
api:
  client: {insecure_skip_verify: false, credentials_path: $tree/etc/credentials.yaml}
  server: {log_level: warning, listen_uri: "$address", profiles_path: $tree/etc/profiles.yaml, console_path: $tree/etc/console.yaml}
prometheus: {enabled: false}
Y
ln -s "$tree/hub/parsers/s00-raw/crowdsecurity/syslog-logs.yaml" "$tree/etc/parsers/s00-raw/"
ln -s "$tree/hub/parsers/s02-enrich/crowdsecurity/dateparse-enrich.yaml" "$tree/etc/parsers/s02-enrich/"
cp "$here/parser.yaml" "$tree/etc/parsers/s01-parse/"
cp "$here/hits.yaml" "$here/different.yaml" "$tree/etc/scenarios/"
# The engine logs in to its own database's server, of which nobody else knows.
printf 'url: http://%s\nlogin: bench\npassword: bench\n' "$address" >"$tree/etc/credentials.yaml"
"$package/usr/bin/cscli" -c "$tree/etc/config.yaml" machines add bench --password bench --force -f /dev/null \
  >"$tree/log/cscli" 2>&1 || { cat "$tree/log/cscli" >&2; exit 1; }
printf 'url: http://%s\nlogin: bench\npassword: bench\n' "$address" >"$tree/etc/credentials.yaml"
