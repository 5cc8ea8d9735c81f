package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/toolstack"
)

// DiskList is what the gate tells of a running VM's disks. Nothing vouches for it.
type DiskList struct {
	Disks []qmp.DiskState `json:"disks" nullable:"false" doc:"Empty when the VM does not run. Not verified."`
}

func (s *Server) diskRoutes() {
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/vms/{id}/disks", "get-vm-disks", "Limits and statistics of a VM's disks", 0, 404, 502),
		func(ctx context.Context, in *vmPath) (*body[DiskList], error) {
			disks, err := s.opts.VMs.Disks(ctx, tenantOf(ctx), in.ID)
			if err != nil {
				return nil, fail(ctx, err)
			}
			return &body[DiskList]{DiskList{disks}}, nil
		})
}

// scrapeTimeout bounds how long a scrape waits for the gate.
const scrapeTimeout = 8 * time.Second

// disks collects the statistics of the VMs' disks from the gate, when they are
// asked for. They are labelled with VMs, so only the operator's own listener
// shows them.
type disks struct {
	gate    *toolstack.Gate
	latency *prometheus.Desc
	depth   *prometheus.Desc
	bytes   *prometheus.Desc
	errors  *prometheus.Desc
	cipher  *prometheus.Desc
	pending *prometheus.Desc
	conns   *prometheus.Desc
	refused *prometheus.Desc
	size    *prometheus.Desc
	limit   *prometheus.Desc
	broken  *prometheus.Desc
	storage *prometheus.Desc
	events  *prometheus.Desc
}

func newDisks(g *toolstack.Gate) *disks {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("uvbond_disk_"+name, help, append([]string{"vm", "disk"}, labels...), nil)
	}
	return &disks{
		gate:    g,
		latency: desc("latency_seconds", "Time of requests, by kind.", "kind"),
		depth:   desc("queue_depth", "Requests that were under way when one began, itself included; the sum is an upper bound."),
		bytes:   desc("bytes_total", "Bytes of requests without errors, by kind.", "kind"),
		errors:  desc("errors_total", "Requests that failed, by kind.", "kind"),
		cipher:  desc("enciphered_bytes_total", "Bytes through the cipher, either way."),
		pending: desc("pending_requests", "Requests under way."),
		conns:   desc("connections", "Connections of the front end.", "front_end"),
		refused: desc("refused_connections_total", "Connections of others than the VM's QEMU.", "front_end"),
		size:    desc("size_bytes", "Size as the guest sees it."),
		limit:   desc("limit", "Limit per second; 0 is none.", "of"),
		broken:  desc("broken_queues_total", "Queues that were ended because the guest brought them out of order."),
		storage: desc("storage_connections", "Connections to the NBD server that holds the ciphertext."),
		events:  desc("storage_events_total", "What happened on them.", "event"),
	}
}

// Describe implements prometheus.Collector.
func (d *disks) Describe(c chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.latency, d.depth, d.bytes, d.errors, d.cipher, d.pending, d.conns, d.refused, d.size, d.limit, d.broken, d.storage, d.events} {
		c <- desc
	}
}

// Collect implements prometheus.Collector. A gate that does not answer gives
// no samples: uvbond_server_gate_up tells that.
func (d *disks) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	states, err := d.gate.QueryVMs(ctx)
	if err != nil {
		return
	}
	for id, vm := range states {
		if vm.State == qmp.StateStopped || vm.State == qmp.StateCrashed {
			continue
		}
		list, err := d.gate.QueryDisks(ctx, id)
		if err != nil {
			continue // it has just ended, or the gate went away
		}
		for i := range list {
			d.collect(c, id, &list[i])
		}
	}
}

func (d *disks) collect(c chan<- prometheus.Metric, vm string, s *qmp.DiskState) {
	// An error says that a label is no UTF-8: then there is nothing to show.
	put := func(desc *prometheus.Desc, kind prometheus.ValueType, v uint64, labels ...string) {
		if m, err := prometheus.NewConstMetric(desc, kind, float64(v), append([]string{vm, s.Name}, labels...)...); err == nil {
			c <- m
		}
	}
	histogram := func(desc *prometheus.Desc, counts []uint64, bound func(int) float64, sum float64, labels ...string) {
		buckets, total := cumulative(counts, bound)
		if m, err := prometheus.NewConstHistogram(desc, total, sum, buckets, append([]string{vm, s.Name}, labels...)...); err == nil {
			c <- m
		}
	}
	put(d.limit, prometheus.GaugeValue, s.Limits.IOPS, "requests")
	put(d.limit, prometheus.GaugeValue, s.Limits.Bytes, "bytes")
	if s.Stats == nil {
		return
	}
	put(d.size, prometheus.GaugeValue, s.Size)
	put(d.cipher, prometheus.CounterValue, s.Stats.Enciphered)
	put(d.pending, prometheus.GaugeValue, s.Stats.Pending)
	put(d.conns, prometheus.GaugeValue, s.Stats.Connections, s.FrontEnd)
	put(d.refused, prometheus.CounterValue, s.Stats.Refused, s.FrontEnd)
	put(d.broken, prometheus.CounterValue, s.Stats.Broken)
	if st := s.Stats.Storage; st != nil {
		put(d.storage, prometheus.GaugeValue, st.Connections)
		for event, n := range map[string]uint64{"connect": st.Connects, "lost": st.Lost, "failure": st.Failures, "violation": st.Violations, "stall": st.Stalls, "resent": st.Resent, "lost_write": st.LostWrites} {
			put(d.events, prometheus.CounterValue, n, event)
		}
	}
	histogram(d.depth, s.Stats.Depth, func(i int) float64 { return float64(uint64(1) << i) }, depthSum(s.Stats.Depth))
	for _, k := range s.Stats.Kinds {
		put(d.bytes, prometheus.CounterValue, k.Bytes, k.Kind)
		put(d.errors, prometheus.CounterValue, k.Errors, k.Kind)
		histogram(d.latency, k.Latency, func(i int) float64 { return float64(uint64(1)<<i) / 1e6 }, float64(k.Nanoseconds)/1e9, k.Kind)
	}
}

// maxBuckets bounds what a gate can make of a histogram.
const maxBuckets = 64

// cumulative turns counts of buckets into the running sums that Prometheus
// wants; the last bucket has no bound.
func cumulative(counts []uint64, bound func(int) float64) (map[float64]uint64, uint64) {
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range counts[:min(len(counts), maxBuckets)] {
		total += n
		if i < len(counts)-1 {
			buckets[bound(i)] = total
		}
	}
	return buckets, total
}

// depthSum is an upper bound of the sum of depths, as the buckets are all that
// is known of it.
func depthSum(counts []uint64) (sum float64) {
	for i, n := range counts[:min(len(counts), maxBuckets)] {
		sum += float64(n) * float64(uint64(1)<<i)
	}
	return sum
}

// limitsOf are the limits that the gate tells of a VM.
func limitsOf(limits []qmp.VMLimits) []Limit {
	out := make([]Limit, 0, len(limits))
	for _, l := range limits {
		out = append(out, Limit(l))
	}
	return out
}
