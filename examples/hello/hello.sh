#!/bin/sh
# What is printed here becomes the job's log: `provision logs JOB`.
set -eu

mkdir -p out/data
echo "$GREETING." >out/hello.txt
{
    echo "job=${FREEPOST_JOB:-none} task=${FREEPOST_TASK:-0} attempt=${FREEPOST_ATTEMPT:-1}"
    uname -srm
} >out/about.txt
i=1
while [ "$i" -le 10 ]; do
    echo "$i,$((i * i))"
    i=$((i + 1))
done >out/data/squares.csv

echo "$GREETING."
echo "Wrote $(find out -type f | wc -l) files under out/."
