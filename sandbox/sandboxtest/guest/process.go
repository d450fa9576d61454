//go:build !wasip1

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// main fails to start when the environment asks for it.
func main() {
	if os.Getenv("GUEST_INIT") == "fail" {
		failInit()
	}
	lambda.Start(func(ctx context.Context, payload json.RawMessage) (json.RawMessage, error) {
		dir := os.Getenv("RUBATO_INPUTS")
		if lc, ok := lambdacontext.FromContext(ctx); ok && lc.ClientContext.Custom["rubato_inputs"] != "" {
			dir = lc.ClientContext.Custom["rubato_inputs"]
		}
		out, err := perform(string(payload), dir)
		return json.RawMessage(out), err
	})
}

func failInit() {
	url := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/init/error"
	resp, err := http.Post(url, "application/json", strings.NewReader(`{"errorMessage":"no database","errorType":"Init"}`))
	if err == nil {
		err = resp.Body.Close()
	}
	if err != nil {
		os.Exit(2)
	}
	os.Exit(1)
}

func crash() { os.Exit(3) }
