package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/api/wire"
)

// metrics are resolved once, so that counting a call is an addition.
type metrics struct {
	byCode   map[api.Code]prometheus.Counter
	other    prometheus.Counter
	total    prometheus.Observer
	phases   [5]prometheus.Observer
	starts   [3]prometheus.Counter
	missed   prometheus.Counter
	inFlight prometheus.Gauge
}

var phaseNames = [5]string{"queue", "delay", "fetch", "init", "run"}

var startNames = [3]string{"cold", "prepared", "warm"}

func newMetrics(reg prometheus.Registerer, zone string) *metrics {
	labels := prometheus.Labels{"zone": zone}
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rubato_invocations_total", Help: "Synchronous calls by outcome.", ConstLabels: labels}, []string{"code"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rubato_invocation_seconds", Help: "Time of calls, in all and by phase.", ConstLabels: labels,
		Buckets: prometheus.ExponentialBuckets(.0005, 2, 18),
	}, []string{"phase"})
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rubato_starts_total", Help: "Answered calls by how their sandbox was found.", ConstLabels: labels}, []string{"start"})
	m := &metrics{
		byCode: map[api.Code]prometheus.Counter{}, other: calls.WithLabelValues("other"), total: seconds.WithLabelValues("total"),
		missed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "rubato_deadline_misses_total", Help: "Calls answered after their deadline.", ConstLabels: labels}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rubato_requests_in_flight", Help: "Requests that the door works on.", ConstLabels: labels}),
	}
	for _, c := range []api.Code{
		api.CodeOK, api.CodeInvalid, api.CodeNotFound, api.CodeTooLarge, api.CodeOverloaded, api.CodeUnavailable, api.CodeDeadline,
		api.CodeCanceled, api.CodeFunction, api.CodeInternal,
	} {
		name := string(c)
		if c == api.CodeOK {
			name = "ok"
		}
		m.byCode[c] = calls.WithLabelValues(name)
	}
	for i, p := range phaseNames {
		m.phases[i] = seconds.WithLabelValues(p)
	}
	for i, s := range startNames {
		m.starts[i] = starts.WithLabelValues(s)
	}
	reg.MustRegister(calls, seconds, starts, m.missed, m.inFlight)
	return m
}

func (m *metrics) observe(a *wire.Answer, took time.Duration) {
	if c := m.byCode[a.Code]; c != nil {
		c.Inc()
	} else {
		m.other.Inc()
	}
	m.total.Observe(took.Seconds())
	t := &a.Timing
	for i, ms := range [5]float64{t.QueueMs, t.DelayMs, t.FetchMs, t.InitMs, t.RunMs} {
		if ms > 0 {
			m.phases[i].Observe(ms / 1000)
		}
	}
	if t.Missed {
		m.missed.Inc()
	}
	if a.Code == api.CodeOK {
		switch t.Start {
		case api.SandboxWarm:
			m.starts[2].Inc()
		case api.SandboxPrepared:
			m.starts[1].Inc()
		default:
			m.starts[0].Inc()
		}
	}
}
