#!/bin/sh
# Installs the system packages that tests and web studies need, where this user may; else names the command.
missing=""
command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
[ -z "$missing" ] && exit 0

install="apt-get install --yes --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Fiona: please install with your system's package manager:$missing" >&2
elif [ "$(id -u)" = 0 ]; then
    (apt-get update && $install) >/dev/null || echo "Fiona: could not install$missing: $install" >&2
elif sudo --non-interactive true 2>/dev/null; then
    (sudo apt-get update && sudo $install) >/dev/null || echo "Fiona: could not install$missing: sudo $install" >&2
else
    echo "Fiona: to test reports and run the web studies, run once: sudo $install" >&2
fi
