package lab

import (
	"strings"
	"testing"
	"time"
)

func TestNeedsLabelsAndWarmSandboxesAreRead(t *testing.T) {
	s, err := Read(strings.NewReader(`
name: needs
duration: 1s
scheduler: {slow_start: 0s}
functions:
  - {name: f, run: 1ms, arch: arm64, accelerator: gpu, tags: [ssd], min_warm: 2, calls: {per_s: 1}}
zones:
  - name: z
    nodes: [{count: 1, arch: arm64, accelerator: gpu-t4, tags: [ssd, eu], keep_alive: 30s}]
`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePolicy(s.Policy)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.Config(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	spec, node := cfg.Functions[0].Spec, cfg.Zones[0].Nodes[0].Core
	if got := spec.Needs.String(); got != "arch arm64, accelerator gpu, tag ssd" || spec.MinWarm != 2 {
		t.Errorf("the function needs %s and keeps %d warm", got, spec.MinWarm)
	}
	if node.Arch != "arm64" || node.Accelerator != "gpu-t4" || len(node.Tags) != 2 || node.KeepAlive != 30*time.Second || cfg.Zones[0].Core.SlowStart != 0 {
		t.Errorf("node %+v, slow start %v", node, cfg.Zones[0].Core.SlowStart)
	}
	if _, err := Read(strings.NewReader("name: n\nduration: 1s\nfunctions: [{name: f, run: 1ms, min_warm: 101}]\nzones: [{name: z, nodes: [{count: 1}]}]\n")); err == nil || !strings.Contains(err.Error(), "min_warm 101") {
		t.Errorf("too many warm sandboxes: %v", err)
	}
}
