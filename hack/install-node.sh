#!/bin/sh
# Prints PATH with a Node.js in it that can build the page and drive its tests: 20.19
# or newer. Debian 12 has an older one; then npm gets the program into the cache.
set -eu
cache="${UVBOND_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/uvbond}/node"

fits() {
	"$1" -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null
}

if command -v npm >/dev/null; then
	if fits node; then
		echo "$PATH"
		exit
	fi
else
	"$(dirname "$0")/install-deps.sh" node >&2
fi
if ! fits "$cache/node_modules/.bin/node"; then
	echo "installing: Node.js 22, by npm into $cache" >&2
	mkdir -p "$cache"
	npm install --prefix "$cache" --no-save --no-audit --no-fund --loglevel error node@22 >&2
	fits "$cache/node_modules/.bin/node" || {
		echo "$0: npm did not bring a Node.js that works; install Node.js 20.19 or newer by hand" >&2
		exit 1
	}
fi
echo "$cache/node_modules/.bin:$PATH"
