#!/usr/bin/env bash
# Installs the Prometheus that tests/watch/test_watch_monitoring.py starts for itself, and promtool.
set -u

say() { echo "monitoring-deps: $*"; }

missing=()
for program in prometheus promtool; do
    command -v "$program" > /dev/null || missing+=("$program")
done
if ((${#missing[@]} == 0)); then
    say "Prometheus is here: $(prometheus --version 2>&1 | head -n 1)"
    exit 0
fi

if ! command -v apt-get > /dev/null; then
    say "NOT INSTALLED: ${missing[*]}; there is no apt-get here, install Prometheus as your system does"
    exit 1
fi
as_root=()
if ((EUID != 0)); then
    if ! sudo -n true 2> /dev/null; then
        say "NOT INSTALLED: ${missing[*]}; installing them needs root: sudo apt-get install prometheus"
        exit 1
    fi
    as_root=(sudo -n)
fi
export DEBIAN_FRONTEND=noninteractive
if ! "${as_root[@]}" apt-get update -qq ||
    ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends prometheus; then
    say "NOT INSTALLED: ${missing[*]}; apt-get failed, see above"
    exit 1
fi
say "installed: $(prometheus --version 2>&1 | head -n 1)"
say "where systemd runs, the package has started a server on port 9090: systemctl disable --now prometheus"
