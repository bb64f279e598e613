#!/bin/sh
set -eu
mkdir -p out/data
echo "$GREETING" | tee out/hello.txt
uname -srm >out/about.txt
for i in 1 2 3 4 5; do echo "$i,$((i * i))"; done >out/data/squares.csv
