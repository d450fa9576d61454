package natstest_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rubato-faas/rubato/internal/natstest"
)

func TestStartServesBothDoorsAndJetStream(t *testing.T) {
	s := natstest.Start(t)
	over := map[string]nats.Option{"tcp": nats.Name("tcp"), "in process": nats.InProcessServer(s)}
	for _, how := range []string{"tcp", "in process"} {
		nc, err := nats.Connect(s.ClientURL(), over[how])
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		js, err := nc.JetStream()
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if _, err := js.AccountInfo(); err != nil {
			t.Errorf("%s: JetStream is off: %v", how, err)
		}
		nc.Close()
	}
}
