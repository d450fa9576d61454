package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// call is what came of one arrival.
type call struct {
	arrival  *arrival
	ok       bool
	status   int
	body     string // of a failure
	id       string
	e2eMs    float64 // from the scheduled arrival
	queueMs  float64
	delayMs  float64
	fetchMs  float64
	initMs   float64
	runMs    float64
	netMs    float64
	start    string
	decision string
	node     string
	fetched  int64
	missed   bool
}

func (c *call) execMs() float64 { return c.fetchMs + c.initMs + c.runMs }

// callTimeout is when a caller gives up: far beyond everything that is measured, so that no policy gains by it.
const callTimeout = 2 * time.Minute

// drive sends every arrival at its time, whatever became of those before (open loop), and waits for all answers.
func drive(ctx context.Context, hc *http.Client, doors []string, tokens map[string]string, arr []arrival, progress func(done int)) []call {
	calls := make([]call, len(arr))
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	began := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for i := range arr {
		at := began.Add(arr[i].at)
		t.Reset(time.Until(at))
		select {
		case <-t.C:
		case <-ctx.Done():
			wg.Wait()
			return calls
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			calls[i] = invoke(ctx, hc, doors[arr[i].zone], tokens[arr[i].load.tenant], &arr[i], at)
			mu.Lock()
			defer mu.Unlock()
			done++
			progress(done)
		}()
	}
	wg.Wait()
	return calls
}

func invoke(ctx context.Context, hc *http.Client, door, token string, a *arrival, at time.Time) call {
	c := call{arrival: a}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, door+"/v1/functions/"+a.load.function+"/invoke", strings.NewReader(a.payload))
	if err != nil {
		c.body = err.Error()
		return c
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if a.input != "" {
		req.Header.Set("X-Input", a.input)
	}
	resp, err := hc.Do(req)
	if err != nil {
		c.body = err.Error()
		c.e2eMs = msSince(at)
		return c
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	c.e2eMs = msSince(at)
	c.status, c.ok = resp.StatusCode, err == nil && resp.StatusCode == http.StatusOK
	if !c.ok {
		c.body = fmt.Sprintf("%s %v", clip(string(b)), err)
	}
	h := resp.Header
	c.id, c.start, c.decision = h.Get("X-Request-Id"), h.Get("X-Start-Type"), h.Get("X-Decision")
	c.node = h.Get("X-Node")
	c.fetched, _ = strconv.ParseInt(h.Get("X-Fetched-Bytes"), 10, 64) // absent: nothing fetched
	t := serverTiming(h.Get("Server-Timing"))
	c.queueMs, c.delayMs, c.fetchMs, c.initMs, c.runMs, c.netMs = t["queue"], t["delay"], t["fetch"], t["init"], t["run"], t["net"]
	c.missed = a.load.deadline > 0 && c.e2eMs > float64(a.load.deadline)/float64(time.Millisecond)
	return c
}

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "..."
	}
	return s
}

func msSince(t time.Time) float64 { return float64(time.Since(t)) / float64(time.Millisecond) }

// serverTiming reads "name;dur=12.3, other;dur=4".
func serverTiming(s string) map[string]float64 {
	out := map[string]float64{}
	for part := range strings.SplitSeq(s, ",") {
		name, rest, ok := strings.Cut(strings.TrimSpace(part), ";")
		if !ok {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimPrefix(rest, "dur="), 64); err == nil {
			out[name] = v
		}
	}
	return out
}
