package relay

import "github.com/prometheus/client_golang/prometheus"

// Metrics count channels by kind; nothing in them names a tenant or a VM.
type Metrics struct {
	openNow *prometheus.GaugeVec
	asked   *prometheus.CounterVec
	bytes   *prometheus.CounterVec
}

// NewMetrics registers with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		openNow: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "uvbond_server_channels", Help: "Channels now."}, []string{"kind"}),
		asked:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "uvbond_server_channels_total", Help: "Channels asked for, by what came of it."}, []string{"kind", "outcome"}),
		bytes:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "uvbond_server_channel_bytes_total", Help: "Bytes relayed; up is from the tenant."}, []string{"kind", "direction"}),
	}
	r.MustRegister(m.openNow, m.asked, m.bytes)
	return m
}

// label keeps what a client writes from making labels.
func label(kind string) string {
	switch kind {
	case "console", "screen", "forward":
		return kind
	}
	return "other"
}

func (m *Metrics) opened(kind, outcome string) {
	m.asked.WithLabelValues(label(kind), outcome).Inc()
}

// kindMetrics are looked up once for each channel.
type kindMetrics struct {
	open     prometheus.Gauge
	up, down prometheus.Counter
}

func (m *Metrics) kind(kind string) *kindMetrics {
	m.opened(kind, "done")
	k := label(kind)
	return &kindMetrics{open: m.openNow.WithLabelValues(k), up: m.bytes.WithLabelValues(k, "up"), down: m.bytes.WithLabelValues(k, "down")}
}
