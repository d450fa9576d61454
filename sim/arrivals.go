package sim

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/zonesched"
)

// ObjectSet is objects that calls name as inputs; several streams may share one.
type ObjectSet struct {
	Name  string
	Count int
	// Sizes are log-normal around Bytes, never above 100 times that.
	Bytes  int64
	Spread float64
	// Zipf is the exponent of popularity: object k is wanted in proportion to 1/k^Zipf.
	Zipf float64
}

func (o *ObjectSet) validate() error {
	if err := api.CheckName("object set", o.Name); err != nil {
		return err
	}
	if o.Count < 1 || o.Count > MaxObjects || o.Bytes < 1 || o.Bytes > 1<<40 || !(o.Spread >= 0 && o.Spread <= 4) || !(o.Zipf >= 0 && o.Zipf <= 4) {
		return fmt.Errorf("%w: object set %s: %d of %d bytes, spread %v, zipf %v: want 1-%d of 1 byte to 1 TiB, the others 0-4", api.ErrInvalid, o.Name, o.Count, o.Bytes, o.Spread, o.Zipf, MaxObjects)
	}
	return nil
}

// objects is a set as drawn.
type objects struct {
	all []api.Object
	cdf []float64 // of popularity
}

func makeObjects(o *ObjectSet, seed uint64) objects {
	rng := rand.New(rand.NewPCG(seed, 0x2545f4914f6cdd1d))
	s := objects{all: make([]api.Object, o.Count), cdf: make([]float64, o.Count)}
	sum := 0.0
	for k := range o.Count {
		size := float64(o.Bytes) * min(math.Exp(o.Spread*rng.NormFloat64()), 100)
		s.all[k] = api.Object{Key: fmt.Sprintf("sim/%s-%d", o.Name, k), Bytes: max(int64(size), 1)}
		sum += math.Pow(float64(k+1), -o.Zipf)
		s.cdf[k] = sum
	}
	for k := range s.cdf {
		s.cdf[k] /= sum
	}
	return s
}

func (o *objects) draw(u float64) api.Object {
	return o.all[min(sort.SearchFloat64s(o.cdf, u), len(o.all)-1)]
}

// drawSome appends the inputs of a call that draws n times to out: what is drawn twice is one input.
func (o *objects) drawSome(out []api.Object, n int, rng *rand.Rand) []api.Object {
	for range n {
		x := o.draw(rng.Float64())
		if !slices.ContainsFunc(out, func(had api.Object) bool { return had.Key == x.Key }) {
			out = append(out, x)
		}
	}
	return out
}

// Stream is calls of one function that arrive at one zone by themselves: Poisson, in bursts or not.
type Stream struct {
	Function, Zone int
	// PerS is the mean rate, bursts included.
	PerS float64
	// Burst: during bursts the rate is so many times that between them (1 or 0: no bursts). They last BurstFor and begin
	// BurstEvery after each other, both exponential.
	Burst                float64
	BurstFor, BurstEvery time.Duration
	// Timer: calls come at equal intervals instead, with a phase of their own.
	Timer bool
	// Ramp: the rate rises linearly over this time from the beginning on. Until ends the stream (0: never).
	Ramp, Until time.Duration
	// Objects is the index of the set that each call takes Inputs objects from, -1 for none.
	Objects, Inputs int
	// PayloadBytes is the median size of the body, log-normal with PayloadSpread; 0: no body.
	PayloadBytes  int64
	PayloadSpread float64
	// BudgetMs is the callers' patience; 0: none. Async is the share of asynchronous calls.
	BudgetMs int64
	Async    float64
	Priority uint8
	// Affinity: each call names one of so many keys of its function, all alike; 0: none.
	Affinity int
}

func (s *Stream) validate(c *Config) error {
	bursts := s.Burst <= 1 || s.BurstFor > 0 && s.BurstEvery > s.BurstFor
	if s.Function < 0 || s.Function >= len(c.Functions) || s.Zone < 0 || s.Zone >= len(c.Zones) || s.Objects < -1 || s.Objects >= len(c.Objects) ||
		!(s.PerS > 0 && s.PerS <= 1e6) || !(s.Burst >= 0 && s.Burst <= 1e4) || !bursts || s.Ramp < 0 || s.Until < 0 ||
		s.Inputs < 0 || s.Inputs > api.MaxInputs || (s.Inputs > 0) != (s.Objects >= 0) || s.PayloadBytes < 0 || s.PayloadBytes > 1<<40 ||
		!(s.PayloadSpread >= 0 && s.PayloadSpread <= 4) || s.BudgetMs < 0 || !(s.Async >= 0 && s.Async <= 1) ||
		s.Timer && s.Burst > 1 || s.Priority > maxPriority || s.Affinity < 0 || s.Affinity > MaxObjects {
		return fmt.Errorf("%w: stream %+v: want a function, a zone and a set that exist, a rate above 0, bursts shorter than the time between them and none of a timer, at most %d inputs, a priority of 0-%d, at most %d affinity keys",
			api.ErrInvalid, *s, api.MaxInputs, maxPriority, MaxObjects)
	}
	return nil
}

// maxPriority is what the gateway takes at most.
const maxPriority = 9

// Recorded is one call of a trace.
type Recorded struct {
	At             time.Duration
	Function, Zone int
	// ExecMs is the run time on a core of speed 1; 0: the function's law says.
	ExecMs     float64
	InputBytes int64
	// Call is what else it brings along: inputs, payload, budget, priority, affinity; nil: nothing. It is not changed.
	Call *api.Invocation
}

func (r *Recorded) validate(c *Config) error {
	if r.At < 0 || r.Function < 0 || r.Function >= len(c.Functions) || r.Zone < 0 || r.Zone >= len(c.Zones) || !(r.ExecMs >= 0 && r.ExecMs <= 1e9) || r.InputBytes < 0 {
		return fmt.Errorf("%w: %+v: want a time, a function below %d, a zone below %d, and a run time of at most 1e9 ms", api.ErrInvalid, *r, len(c.Functions), len(c.Zones))
	}
	if c := r.Call; c != nil && (len(c.Inputs) > api.MaxInputs || c.PayBytes < 0 || c.BudgetMs < 0) {
		return fmt.Errorf("%w: %d inputs, %d bytes, budget %d ms: want at most %d inputs, and nothing negative", api.ErrInvalid, len(c.Inputs), c.PayBytes, c.BudgetMs, api.MaxInputs)
	}
	return nil
}

// stream is a Stream under way, with a source of chance of its own: what one function's callers do changes nothing for
// another's, and the policy nothing for either.
type stream struct {
	Stream
	rng      *rand.Rand
	t        int64   // of the next call
	calm     float64 // calls per ns between bursts
	left     float64 // of a timer's interval, when the rate changes within it
	inBurst  bool
	phaseEnd int64
	shifts   []shift // of the rate that are still to come, in order
}

// shift multiplies a stream's rate from a time on.
type shift struct {
	at     int64
	factor float64
}

func (s *shard) makeStreams() {
	for i := range s.cfg.Streams {
		c := &s.cfg.Streams[i]
		if int32(c.Zone) != s.at0 {
			continue
		}
		st := stream{Stream: *c, rng: rand.New(rand.NewPCG(mix(s.cfg.Seed^mix(uint64(i)+0x5851f42d4c957f2d)), uint64(i))), phaseEnd: math.MaxInt64}
		st.calm = c.PerS / 1e9
		if c.Burst > 1 {
			part := float64(c.BurstFor) / float64(c.BurstEvery)
			st.calm /= 1 - part + part*c.Burst
			st.phaseEnd = ahead(st.rng.ExpFloat64() * float64(c.BurstEvery-c.BurstFor))
		}
		for k := range s.cfg.Changes {
			if ch := &s.cfg.Changes[k]; ch.Rate > 0 && (ch.Function < 0 || ch.Function == c.Function) {
				st.shifts = append(st.shifts, shift{int64(ch.At), ch.Rate})
			}
		}
		sort.SliceStable(st.shifts, func(i, j int) bool { return st.shifts[i].at < st.shifts[j].at })
		s.streams = append(s.streams, st)
		s.nextArrival(int32(len(s.streams) - 1))
	}
	for i := range s.cfg.Trace {
		if int32(s.cfg.Trace[i].Zone) == s.at0 {
			s.trace = append(s.trace, s.cfg.Trace[i])
		}
	}
	if len(s.trace) > 0 {
		sort.SliceStable(s.trace, func(i, j int) bool { return s.trace[i].At < s.trace[j].At })
		s.at(int64(s.trace[0].At), event{kind: evTrace})
	}
}

// gap is the time to the next call, in mean ones. A timer's first call comes at any time of its interval.
func (st *stream) gap() float64 {
	if !st.Timer {
		return st.rng.ExpFloat64()
	}
	if left := st.left; left > 0 {
		st.left = 0
		return left
	}
	if st.t == 0 {
		return st.rng.Float64()
	}
	return 1
}

// ahead is a time span in ns, at most as much as can be added to any time of a simulation: the next call of a function that is hardly ever
// called may be centuries away, which is more than an int64 holds.
func ahead(ns float64) int64 { return int64(min(ns, 1<<61)) }

// maxTurns is how many bursts of a stream are looked through for its next call at a time.
const maxTurns = 10000

// nextArrival schedules a stream's next call, or a look for it later on: one that is hardly ever called would be followed through more bursts
// than there are in a run.
func (s *shard) nextArrival(i int32) {
	st := &s.streams[i]
	for turns := 0; ; turns++ {
		if turns == maxTurns {
			s.at(st.t, event{kind: evTurn, ref: i})
			return
		}
		rate := st.calm
		if st.inBurst {
			rate *= st.Burst
		}
		next := st.t + max(ahead(st.gap()/rate), 1)
		if len(st.shifts) > 0 && next > st.shifts[0].at && st.phaseEnd > st.shifts[0].at {
			st.t, st.calm = max(st.t, st.shifts[0].at), st.calm*st.shifts[0].factor
			st.shifts = st.shifts[1:]
			if st.Timer { // chance has no memory, an interval has
				st.left = float64(next-st.t) * rate
			}
			continue
		}
		if next > st.phaseEnd { // without memory: draw anew from the turn on
			st.t = st.phaseEnd
			mean := st.BurstFor
			if st.inBurst {
				mean = st.BurstEvery - st.BurstFor
			}
			st.inBurst = !st.inBurst
			st.phaseEnd += max(ahead(st.rng.ExpFloat64()*float64(mean)), 1)
			if st.Until > 0 && st.t > int64(st.Until) {
				return
			}
			continue
		}
		st.t = next
		if st.Until > 0 && next > int64(st.Until) {
			return
		}
		if next < int64(st.Ramp) && st.rng.Float64()*float64(st.Ramp) > float64(next) {
			continue
		}
		s.at(next, event{kind: evArrival, ref: i})
		return
	}
}

func (s *shard) arrival(i int32) {
	st := &s.streams[i]
	spec := &s.cfg.Functions[st.Function].Spec
	inv := &api.Invocation{Tenant: spec.Tenant, Function: spec.Name, BudgetMs: st.BudgetMs, Priority: st.Priority}
	if st.Inputs > 0 {
		set := &s.w.sets[st.Objects]
		inv.Inputs = set.drawSome(make([]api.Object, 0, st.Inputs), st.Inputs, st.rng)
	}
	if st.PayloadBytes > 0 {
		inv.PayBytes = max(int64(float64(st.PayloadBytes)*min(math.Exp(st.PayloadSpread*st.rng.NormFloat64()), 100)), 1)
	}
	if st.Async > 0 {
		inv.Async = st.rng.Float64() < st.Async
	}
	if st.Affinity > 0 {
		inv.Affinity = strconv.Itoa(st.rng.IntN(st.Affinity))
	}
	s.begin(int32(st.Function), inv)
	s.nextArrival(i)
}

// begin gives the zone a call that the world made.
func (s *shard) begin(fn int32, inv *api.Invocation) {
	s.counter++
	slot := s.newCaller(fn, -1)
	inv.ID = s.newID(fn, slot)
	s.calls[slot].id = inv.ID
	s.accept(slot, inv)
}

// replay gives the zone its next recorded call.
func (s *shard) replay() {
	r := &s.trace[s.traced]
	spec := &s.cfg.Functions[r.Function].Spec
	inv := &api.Invocation{PayBytes: r.InputBytes}
	if r.Call != nil {
		*inv = *r.Call
	}
	inv.Tenant, inv.Function = spec.Tenant, spec.Name
	if r.ExecMs > 0 {
		inv.Payload = binary.LittleEndian.AppendUint64(nil, math.Float64bits(r.ExecMs))
	}
	s.begin(int32(r.Function), inv)
	if s.traced++; s.traced < len(s.trace) {
		s.at(int64(s.trace[s.traced].At), event{kind: evTrace})
	}
}

var _ zonesched.Predictor = (*oracle)(nil)
