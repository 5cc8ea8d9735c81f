package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/uvbond/uvbond/server/relay"
	"github.com/uvbond/uvbond/server/toolstack"
)

// Metrics are the server's counters. Their labels hold routes and classes,
// never a tenant or an address; a VM only in those of its disks, which are for
// the operator alone.
type Metrics struct {
	registry     *prometheus.Registry
	disks        *prometheus.Registry
	requests     *prometheus.CounterVec
	durations    *prometheus.HistogramVec
	inFlight     prometheus.Gauge
	authFailures prometheus.Counter
	turnedAway   *prometheus.CounterVec
	uploaded     prometheus.Counter
	gateCalls    *prometheus.CounterVec
	gateSeconds  *prometheus.HistogramVec
	gateUp       prometheus.Gauge
	up           atomic.Bool

	// Channels are those of the relay.
	Channels *relay.Metrics
}

// NewMetrics makes registries of its own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry:     prometheus.NewRegistry(),
		disks:        prometheus.NewRegistry(),
		requests:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "uvbond_server_requests_total", Help: "API requests."}, []string{"route", "status"}),
		durations:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "uvbond_server_request_seconds", Help: "Time of API requests.", Buckets: []float64{.005, .02, .1, .5, 2, 10, 60}}, []string{"route"}),
		inFlight:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "uvbond_server_requests_in_flight", Help: "API requests now."}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "uvbond_server_auth_failures_total", Help: "Requests without a good token."}),
		turnedAway:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "uvbond_server_turned_away_total", Help: "Requests over a limit."}, []string{"limit"}),
		uploaded:     prometheus.NewCounter(prometheus.CounterOpts{Name: "uvbond_server_uploaded_bytes_total", Help: "Image data stored."}),
		gateCalls:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "uvbond_server_gate_calls_total", Help: "Commands on the hypervisor's gate."}, []string{"command", "class"}),
		gateSeconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "uvbond_server_gate_seconds", Help: "Time of commands on the gate.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 30}}, []string{"command"}),
		gateUp:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "uvbond_server_gate_up", Help: "Whether the gate answers."}),
	}
	m.registry.MustRegister(m.requests, m.durations, m.inFlight, m.authFailures, m.turnedAway, m.uploaded, m.gateCalls, m.gateSeconds, m.gateUp,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Channels = relay.NewMetrics(m.registry)
	return m
}

// Handler serves the metrics that anybody may see.
func (m *Metrics) Handler() http.Handler { return serve(m.registry) }

// OperatorHandler serves those of the disks too.
func (m *Metrics) OperatorHandler() http.Handler {
	return serve(prometheus.Gatherers{m.registry, m.disks})
}

// WatchDisks has the gate asked for the disks' statistics at each scrape.
func (m *Metrics) WatchDisks(g *toolstack.Gate) { m.disks.MustRegister(newDisks(g)) }

func serve(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// GateCall is a toolstack.Observer.
func (m *Metrics) GateCall(command, class string, took time.Duration) {
	if class == "" {
		class = "ok"
	}
	m.gateCalls.WithLabelValues(command, class).Inc()
	m.gateSeconds.WithLabelValues(command).Observe(took.Seconds())
}

// GateUp records whether the gate answers.
func (m *Metrics) GateUp(up bool) {
	m.up.Store(up)
	if up {
		m.gateUp.Set(1)
	} else {
		m.gateUp.Set(0)
	}
}

func (m *Metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.durations.WithLabelValues(route).Observe(took.Seconds())
}
