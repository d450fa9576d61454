package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/client"
	"github.com/rubato-faas/rubato/coordinator/globald"
	"github.com/rubato-faas/rubato/sim/lab"
	"github.com/rubato-faas/rubato/zonesched"
	"github.com/rubato-faas/rubato/zonesched/zoned"
)

func newRecord(g *globals) *cobra.Command {
	var out string
	var length time.Duration
	var zones []string
	cmd := &cobra.Command{
		Use: "record", Short: "Write the calls of a live cluster into a file that the simulator replays", Args: cobra.NoArgs, Annotations: map[string]string{watches: "yes"},
		Long: `record follows the calls of the cluster's zones until it is interrupted, or for --for, and writes the cluster as it is and a line
a call: when it arrived, what it brought along, how it went. "rubato sim run --replay FILE" and "sim compare --replay FILE" then
answer what another policy, or other nodes, would have made of it. Keys of objects and affinity keys are written as hashes
with a salt that is not kept; names of tenants, functions, zones and nodes stay. Payloads and results are never seen.
A token must be an operator's.`,
		Example: "  rubato record --out yesterday.jsonl.gz --for 10m\n  rubato record --out edge.jsonl --zone edge",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usage("--out: want a file to write, like yesterday.jsonl.gz")
			}
			if length < 0 || length > lab.MaxDuration {
				return usage("--for %v: want 0 (until interrupted) to %v", length, lab.MaxDuration)
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				end, err := record(ctx, cmd, c, out, length, zones)
				if err != nil {
					return err
				}
				if g.output == "json" {
					return writeJSON(cmd.OutOrStdout(), end)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d calls in %v; %d lost, %d had not ended, %d gaps\n",
					out, end.Calls, time.Duration(end.DurationMs*1e6).Round(time.Millisecond), end.Lost, end.UnderWay, end.Gaps)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "file to write, JSON lines; gzipped if it ends in .gz")
	f.DurationVar(&length, "for", 0, "how long to record (0: until interrupted)")
	f.StringSliceVar(&zones, "zone", nil, "zones to record (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("zone", g.zoneNames) // the flag exists
	return cmd
}

// recordEvery is how often zones are asked for what has ended. A zone keeps the last 4,096 calls (zone.scheduler.records): more than
// that between two questions are lost, and counted.
const recordEvery = 250 * time.Millisecond

// recording is a record under way.
type recording struct {
	c     *client.Client
	w     *lab.Recorder
	salt  [16]byte
	began time.Time
	zones []*recordedZone
	known map[string]bool // functions written
	end   lab.RecordEnd
}

// recordedZone is how far the record of a zone has come.
type recordedZone struct {
	name     string
	from     time.Time // when the record began, by the clock of its leader
	ring     string
	next     uint64
	underWay int
	away     bool // it could not be reached the last time
}

// record writes the file and says what became of it.
func record(ctx context.Context, cmd *cobra.Command, c *client.Client, name string, length time.Duration, zones []string) (end *lab.RecordEnd, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make record (want a new file): %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriter(f)
	defer func() { err = errors.Join(err, buf.Flush()) }()
	w := io.Writer(buf)
	if strings.HasSuffix(name, ".gz") {
		z := gzip.NewWriter(buf)
		defer func() { err = errors.Join(err, z.Close()) }()
		w = z
	}
	r := &recording{c: c, began: time.Now(), known: map[string]bool{}}
	_, _ = rand.Read(r.salt[:]) // never fails
	if r.w, err = lab.NewRecorder(w, r.began); err != nil {
		return nil, err
	}
	if err := r.begin(ctx, zones); err != nil {
		return nil, err
	}
	return &r.end, r.follow(ctx, cmd.ErrOrStderr(), length)
}

// begin writes the cluster as it is, and finds out where the zones' calls go on from.
func (r *recording) begin(ctx context.Context, zones []string) error {
	if len(zones) == 0 {
		var s globald.Status
		if err := r.c.Look(ctx, "zones", &s); err != nil {
			return err
		}
		for i := range s.Zones {
			zones = append(zones, s.Zones[i].Name)
		}
	}
	for _, name := range zones {
		var v zoned.ZoneView
		if err := r.c.Look(ctx, "zone?zone="+url.QueryEscape(name), &v); err != nil {
			return fmt.Errorf("zone %s: %w", name, err)
		}
		z := lab.RecordZone{Name: v.Zone, Tier: v.Tier, Region: v.Region, Policy: v.Policy, Mode: v.Mode}
		if v.WaitMs > 0 {
			z.Policy += "=" + time.Duration(v.WaitMs*1e6).String()
		}
		if err := r.w.Write(lab.RecordLine{Zone: &z}); err != nil {
			return err
		}
		var nodes []zonesched.NodeView
		if err := r.c.Look(ctx, "nodes?zone="+url.QueryEscape(name), &nodes); err != nil {
			return fmt.Errorf("zone %s: %w", name, err)
		}
		for _, n := range nodes {
			if !n.Live || n.Draining {
				continue // nothing new goes there
			}
			l := lab.RecordNode{Name: n.Name, Zone: name, Slots: n.Slots, MemoryMB: n.MemMB, CacheBytes: n.CacheMax, LinkMbps: n.LinkMbps, Class: n.Class, Labels: n.Labels, PricePerHour: n.PricePerH, EnergyClass: n.EnergyClass}
			if err := r.w.Write(lab.RecordLine{Node: &l}); err != nil {
				return err
			}
		}
		r.zones = append(r.zones, &recordedZone{name: name})
	}
	if err := r.functions(ctx); err != nil {
		return err
	}
	for _, z := range r.zones {
		p, err := r.page(ctx, z)
		if err != nil {
			return fmt.Errorf("zone %s: %w", z.name, err)
		}
		z.ring, z.next, z.from = p.Ring, p.Next, p.Now
	}
	return nil
}

// functions writes those that were not written before.
func (r *recording) functions(ctx context.Context) error {
	var fns []client.Function
	if err := r.c.Look(ctx, "functions?all=1", &fns); err != nil {
		return err
	}
	for _, f := range fns {
		id := f.Tenant + "/" + f.Name
		if r.known[id] {
			continue
		}
		r.known[id] = true
		l := lab.RecordFunction{
			Tenant: f.Tenant, Name: f.Name, Version: f.Version, Runtime: string(f.Runtime), Artifact: r.hash([]byte(f.Artifact)), ArtifactBytes: f.ArtifactBytes,
			MemoryMB: f.MemoryMB, TimeoutMs: f.TimeoutMs, DeadlineMs: f.ObjectiveDeadlineMs, DeadlineShare: f.ObjectiveShare, DelayOff: f.DelayOff,
			Needs: api.Labels{Arch: f.Arch, Accelerator: f.Accelerator, Tags: f.Tags}, MinWarm: f.MinWarm, Idempotent: f.Idempotent, PriceWeight: f.PriceWeight, MissWeight: f.MissWeight,
		}
		if err := r.w.Write(lab.RecordLine{Function: &l}); err != nil {
			return err
		}
	}
	return nil
}

func (r *recording) page(ctx context.Context, z *recordedZone) (zoned.Calls, error) {
	var p zoned.Calls
	err := r.c.Look(ctx, "calls?zone="+url.QueryEscape(z.name)+"&since="+strconv.FormatUint(z.next, 10), &p)
	return p, err
}

// lastLook bounds the last questions, after the record's time has ended.
const lastLook = 5 * time.Second

// follow writes calls until ctx ends or length is over.
func (r *recording) follow(ctx context.Context, progress io.Writer, length time.Duration) error {
	fmt.Fprintf(progress, "recording %d zones\n", len(r.zones))
	tick := time.NewTicker(recordEvery)
	defer tick.Stop()
	var over <-chan time.Time
	if length > 0 {
		over = time.After(length)
	}
	for going := true; going; {
		select {
		case <-tick.C:
		case <-over:
			going = false
		case <-ctx.Done():
			going = false
		}
		look := ctx
		if !going {
			r.end.DurationMs = float64(time.Since(r.began)) / 1e6
			var cancel context.CancelFunc
			look, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastLook)
			defer cancel()
		}
		for _, z := range r.zones {
			err := r.zone(look, z)
			switch {
			case errors.Is(err, errWrite):
				return err
			case err != nil && (going && ctx.Err() != nil):
				// Interrupted in the middle of a question; it is asked once more.
			case err != nil && !z.away:
				z.away = true
				r.end.Gaps++
				fmt.Fprintf(progress, "zone %s: %v\n", z.name, err)
			case err == nil:
				z.away = false
			}
		}
		if isTerminal(progress) {
			fmt.Fprintf(progress, "\r%d calls, %d lost, %v ", r.end.Calls, r.end.Lost, time.Since(r.began).Round(time.Second))
		}
	}
	if isTerminal(progress) {
		fmt.Fprintln(progress)
	}
	for _, z := range r.zones {
		r.end.UnderWay += z.underWay
	}
	return r.w.Write(lab.RecordLine{End: &r.end})
}

// errWrite: the file cannot be written, and there is no use in going on.
var errWrite = errors.New("write record")

// zone writes what has ended in a zone since it was last asked.
func (r *recording) zone(ctx context.Context, z *recordedZone) error {
	for {
		p, err := r.page(ctx, z)
		if err != nil {
			return err
		}
		if p.Ring != z.ring {
			// Another leader counts anew, and all that ended there is new to us.
			z.ring, z.next = p.Ring, 1
			r.end.Gaps++
			continue
		}
		z.next, z.underWay = p.Next, p.UnderWay
		r.end.Lost += p.Lost
		for i := range p.Calls {
			if err := r.call(ctx, z, &p.Calls[i]); err != nil {
				return err
			}
		}
		if len(p.Calls) == 0 {
			return nil
		}
	}
}

// call writes one call, if it arrived within the record.
func (r *recording) call(ctx context.Context, z *recordedZone, d *zonesched.Decision) error {
	at := float64(d.Arrived.Sub(z.from)) / 1e6
	if at < 0 || r.end.DurationMs > 0 && at > r.end.DurationMs {
		return nil
	}
	if !r.known[d.Function] {
		if err := r.functions(ctx); err != nil {
			return err
		}
		if !r.known[d.Function] { // deployed and removed since
			r.end.Lost++
			return nil
		}
	}
	t := &d.Timing
	l := lab.RecordCall{
		ID: r.hash([]byte(d.ID)), AtMs: at, Zone: z.name, From: d.From, Function: d.Function, Version: d.Version, PayloadBytes: d.PayloadBytes, BudgetMs: d.BudgetMs, Priority: d.Priority, Async: d.Async,
		Code: d.Code, Decision: d.Kind, Node: t.Node, Start: d.Start, DelayMs: t.DelayMs, QueueMs: t.QueueMs, FetchMs: t.FetchMs, InitMs: t.InitMs, RunMs: t.RunMs, NetMs: t.NetMs,
		TotalMs: d.TotalMs, FetchedBytes: t.FetchedBytes,
		Policy: d.Policy, Share: d.Share, Clause: d.Clause, Mode: d.Mode, Model: d.ModelVersion, Propensity: d.Propensity,
	}
	if t.Zone != z.name && t.Zone != "" {
		l.Decision, l.RanIn = api.DecisionForwarded.String(), t.Zone
	}
	if d.Affinity != 0 {
		l.Affinity = r.hash(binary.LittleEndian.AppendUint64(nil, d.Affinity))
	}
	for _, in := range d.Inputs {
		l.Inputs = append(l.Inputs, lab.RecordInput{Object: r.hash(binary.LittleEndian.AppendUint64(nil, in.Hash)), Bytes: in.Bytes})
	}
	if err := r.w.Write(lab.RecordLine{Call: &l}); err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	r.end.Calls++
	return nil
}

// hash names something within this record only: without the salt nobody can find out what by trying names.
func (r *recording) hash(b []byte) string {
	h := sha256.New()
	h.Write(r.salt[:])
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)[:8])
}
