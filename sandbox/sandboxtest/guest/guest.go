// Command guest is the function that the conformance suite runs: it does what its payload, a JSON string
// "verb" or "verb:argument", tells it to. Built three ways it is a process on aws-lambda-go, a WASI command and a
// WASI reactor. It imports little, since every imported package is compiled again for each WASM test.
package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"
)

// perform carries out one payload. An error is the function's own failure.
func perform(payload, inputs string) (string, error) {
	verb, arg, _ := strings.Cut(strings.Trim(payload, `"`), ":")
	switch verb {
	case "echo":
		return payload, nil
	case "fail":
		return "", errors.New(arg)
	case "crash":
		crash()
	case "panic":
		panic(arg)
	case "env":
		return `"` + os.Getenv(arg) + `"`, nil
	case "spin":
		for n := 0; ; n++ {
			sink = n
		}
	case "sleep":
		time.Sleep(time.Hour)
	case "read":
		return read(inputs)
	case "write":
		return write(inputs, arg)
	case "big":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		return `"` + strings.Repeat("x", n-2) + `"`, nil
	case "log":
		if _, err := os.Stderr.WriteString(arg + "\n"); err != nil {
			return "", err
		}
		return `"logged"`, nil
	case "flood":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		if _, err := os.Stderr.WriteString(strings.Repeat("y", n) + "end"); err != nil {
			return "", err
		}
		return `"flooded"`, nil
	}
	return "", errors.New("unknown verb " + verb)
}

//lint:ignore U1000 it keeps the spinning loop from being empty
var sink int

// read answers name=content of every input, in the order of names.
func read(inputs string) (string, error) {
	entries, err := os.ReadDir(inputs)
	if err != nil {
		return "", err
	}
	var out []string
	for _, e := range entries {
		b, err := os.ReadFile(inputs + "/" + e.Name())
		if err != nil {
			return "", err
		}
		out = append(out, e.Name()+"="+string(b))
	}
	return `"` + strings.Join(out, ",") + `"`, nil
}

// write tries to leave something in the inputs folder; a runtime that mounts it read-only makes that fail.
func write(inputs, name string) (string, error) {
	if err := os.WriteFile(inputs+"/"+name, []byte("mine"), 0o644); err != nil {
		return "", err
	}
	return `"written"`, nil
}
