package nodeagent

import (
	"strings"
	"testing"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// idleAfter runs one call of f and says whether its sandbox is gone after it has been idle for d.
func idleAfter(t *testing.T, keepMs int64, d time.Duration) bool {
	t.Helper()
	b := newBed(t, func(c *Config) { c.KeepAlive = time.Minute })
	b.run("i1", "f", func(m *wire.Run) { m.KeepMs = keepMs })
	b.finish("i1", b.up("f"))
	b.now = b.now.Add(d)
	b.step(Event{Kind: EvTick})
	gone := b.find(ActClose) != nil
	hb := b.n.Heartbeat(b.now)
	if s := hb.Sandboxes[0]; (s.Idle == 0) != gone || (hb.MemUsedMB == 0) != gone || s.State != api.SandboxPrepared {
		t.Fatalf("closed: %v, reported %+v, %d MB", gone, s, hb.MemUsedMB)
	}
	return gone
}

func TestIdleSandboxesExpire(t *testing.T) {
	for _, c := range []struct {
		keepMs int64
		after  time.Duration
		gone   bool
	}{
		{20_000, 19 * time.Second, false},
		{20_000, 21 * time.Second, true},
		{0, 59 * time.Second, false}, // a zone that says nothing
		{0, 61 * time.Second, true},
		{3_600_000, 61 * time.Second, true}, // the node's own bound
		{1 << 62, 59 * time.Second, false},
	} {
		if gone := idleAfter(t, c.keepMs, c.after); gone != c.gone {
			t.Errorf("asked to be kept for %d ms, idle for %v: gone is %v", c.keepMs, c.after, gone)
		}
	}
}

func TestPrewarmingBringsUpAnotherSandbox(t *testing.T) {
	b := newBed(t, nil)
	b.run("i1", "f")
	b.finish("i1", b.up("f"))
	b.run("p1", "f", func(m *wire.Run) { m.Prewarm = true })
	b.step(Event{Kind: EvStarted, Sandbox: b.want(ActStart).Sandbox})
	if c := b.want(ActComplete).Completion; c.ID != "p1" || c.Outcome != api.OutcomeOK {
		t.Fatalf("ended with %+v", c)
	}
	if s := b.n.Heartbeat(b.now).Sandboxes[0]; s.Idle != 2 {
		t.Fatalf("%d idle sandboxes, want the old and the new one", s.Idle)
	}
}

func TestNodeReportsItsLabelsAndAge(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Arch, c.Accelerator, c.Tags = "arm64", "gpu-a100", []string{"ssd", "eu", "ssd"} })
	b.step(Event{Kind: EvTick})
	b.now = b.now.Add(7 * time.Second)
	hb := b.n.Heartbeat(b.now)
	if got := hb.Labels.String(); got != "arch arm64, accelerator gpu-a100, tag eu, tag ssd" || hb.UptimeMs != 7000 {
		t.Errorf("labels %s, up for %d ms", got, hb.UptimeMs)
	}
	if young := newBed(t, nil); young.n.Heartbeat(young.now).UptimeMs == 0 {
		t.Error("a node without an age could be as old as any")
	}
	cfg := DefaultConfig()
	cfg.Tags, cfg.KeepAlive = []string{"No Name"}, 0
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "tag") || !strings.Contains(err.Error(), "keep_alive") {
		t.Errorf("a tag that is no name and no keep-alive: %v", err)
	}
}
