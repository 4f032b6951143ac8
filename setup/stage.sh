#!/usr/bin/env bash
# Runs a command as a named stage: says when it begins, how it ended and how long it took.
#
#   setup/stage.sh NAME COMMAND [ARGUMENT…]
set -uo pipefail

name=$1
shift
echo "==> $name"
begin=$SECONDS
"$@"
status=$?
if [ $status -eq 0 ]; then
    outcome=ok
else
    outcome="FAILED ($status)"
fi
echo "<== $name: $outcome after $((SECONDS - begin)) s"
exit $status
