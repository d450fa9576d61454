#!/bin/sh
# Builds every example function into the folder given: build.sh OUTDIR
set -eu
out=${1:?usage: build.sh OUTDIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
export CGO_ENABLED=0
for name in wordcount gzip thumbnail matmul; do
	go build -trimpath -ldflags="-s -w" -o "$out/$name" "./$name"
done
for name in jsonround htmlrender noop; do
	GOOS=wasip1 GOARCH=wasm go build -trimpath -ldflags="-s -w" -buildmode=c-shared -o "$out/$name.wasm" "./$name"
done
for name in upper; do
	GOOS=wasip1 GOARCH=wasm go build -trimpath -ldflags="-s -w" -o "$out/$name.wasm" "./$name"
done
