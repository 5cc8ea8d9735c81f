#!/bin/sh
# Checks the model, that it is not empty, and that each check in it is needed.
# Prints a table; fails when one line is not as it must be.
#
#	docs/model/check.sh              everything
#	docs/model/check.sh trail NO_X   the attack without check NO_X, step by step
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cp "$here/bond.pml" .
wrong=0

# run NAME EXPECTED [FLAG]: EXPECTED is holds, fails or reached.
run() {
	spin -a ${3:+"$3"} bond.pml >spin.log 2>&1 || { cat spin.log >&2; exit 1; }
	gcc -O0 -w -DSAFETY -DBFS -DMEMLIM=3500 -o pan pan.c
	./pan >pan.log 2>&1 || true
	states=$(awk '/states, stored/ {print $1; exit}' pan.log)
	seconds=$(awk '/elapsed time/ {print $4; exit}' pan.log)
	case "$(cat pan.log)" in
	*"assertion violated"*) got=fails ;;
	*"max search depth too small"* | *"out of memory"* | *"not completed"*) got=unfinished ;;
	*"errors: 0"*) got=holds ;;
	*) got=unfinished ;;
	esac
	by=$(sed -n 's/^pan:1: assertion violated *\(.*\) (at depth.*/\1/p' pan.log | head -n 1)
	[ "$got $by" != "fails 0" ] || got=reached
	mark=$by
	if [ "$got" != "$2" ]; then
		mark="WRONG $by"
		wrong=$((wrong + 1))
	fi
	printf '%-30s %-10s %-10s %9s %6s s  %s\n' "$1" "$2" "$got" "${states:--}" "${seconds:-0}" "$mark"
}

if [ "${1:-}" = trail ]; then
	run "without $2" fails "-D$2"
	spin -t -p -g "-D$2" bond.pml
	exit
fi

printf '%-30s %-10s %-10s %9s %8s  %s\n' run expected got states time assertion
run protocol holds
for goal in 1:receipt 2:channel 4:second-instance 8:refusal 7:honest-run; do
	run "reach ${goal#*:}" reached "-DREACH=${goal%%:*}"
done
for check in $(grep -v '^ \*' "$here/bond.pml" | grep -o 'NO_[A-Z_]*' | sort -u); do
	run "without $check" fails "-D$check"
done
echo "wrong: $wrong"
[ "$wrong" = 0 ]
