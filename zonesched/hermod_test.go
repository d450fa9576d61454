package zonesched

import "testing"

// Hermod packs up to what a node says of its cores, not of its slots.
func TestHermodPacksUpToTheCores(t *testing.T) {
	for cores, second := range map[float64]string{0: "a", 1: "b", 2: "a"} {
		b := newBed(t, func(c *Config) { c.Policy = "hermod" })
		for _, name := range []string{"a", "b"} {
			hb := b.report(name, 4, 4)
			hb.Cores = cores
			b.step(&Event{Kind: EvHeartbeat, Heartbeat: hb})
		}
		b.invoke("i1", "f")
		b.ran("i1", "a")
		b.invoke("i2", "f")
		b.ran("i2", second)
	}
}
