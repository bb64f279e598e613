#!/bin/sh
# Runs the agent with the interpreter that cloud-init itself runs on: the one that certainly works here.
line=
init=$(command -v cloud-init) && read -r line <"$init"
line=${line#\#!}
exec ${line:-python3} "${0%/bin/agent}/lib/freepost/agent.pyz" "$@"
