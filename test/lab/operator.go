package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// OperatorConfig is what OperatorMain is told, as JSON in its last argument.
type OperatorConfig struct {
	Listen  string // where tenants come
	Backend string // the real server
	DataDir string // the server's, with its TLS key: the operator owns it
	Gate    string
	Control string // unix socket for attacks
}

// Attack is something the operator tries.
type Attack struct {
	// Kind is what. These change how the operator's proxy behaves from now on:
	//
	//	none             behave again
	//	redirect         send commands to VM instead
	//	substitute       answer a registration with a VM of the operator's own
	//	swap-key         register a key of the operator's own for the tenant's VM
	//	swap-host-key    show a host key of the operator's own
	//	hold             take tickets and deliver nothing
	//	run-under-ticket send Command in the session of the tenant's ticket
	//	bare-done        claim success without a receipt
	//	no-receipt       execute, but withhold the receipt
	//	replay-receipt   execute, but deliver an old receipt
	//	garbage          answer with broken JSON
	//	channel-flip     change a byte of a channel that opens from now on
	//	channel-drop, channel-replay, channel-reorder, channel-cut    leave a part out,
	//	                 send it twice, behind the next, or half and nothing more
	//	channel-splice   exchange the streams of two channels
	//
	// and these act at once:
	//
	//	gate             send Command in a session without a ticket
	//	replay-ticket    present the newest ticket again
	//	pass-connection  open a session with the newest ticket and let another
	//	                 process send Command in it
	//	record           keep all traffic from now on, see Lab.Record
	//	swap-disks       exchange the stored images with each other
	Kind string
	// VM is the VM id aimed at.
	VM string
	// Command and Arguments are a hypercall, for attacks that send one. For those on
	// channels, the command to-keeper means that direction, else it is to the client.
	Command   string
	Arguments json.RawMessage `json:",omitempty"`
}

// Outcome is what the operator saw.
type Outcome struct {
	Class  string          // error class of the gate; empty: it was accepted
	Reason string          // what the gate said
	Return json.RawMessage // what the gate answered when it accepted
}

// operator is the management domain in bad hands. It owns the server's TLS
// key and uid, so tenants cannot tell its proxy from the server.
type operator struct {
	conf    OperatorConfig
	traffic atomic.Pointer[traffic] // nil: nothing is kept

	mu       sync.Mutex
	attack   Attack
	tickets  [][]byte // every ticket that passed, newest last
	receipts []string // every receipt that passed, in base64
	lonely   *spliced // waits for a second channel
}

// OperatorMain is the operator's process. args is the OperatorConfig in JSON.
func OperatorMain(args string) int {
	o := &operator{attack: Attack{Kind: "none"}}
	if err := json.Unmarshal([]byte(args), &o.conf); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		return 2
	}
	if err := o.serve(); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		return 1
	}
	return 0
}

func (o *operator) serve() error {
	cert, err := o.certificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", o.conf.Listen, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", o.conf.Control)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /attack", o.control)
	go func() { _ = http.Serve(control, mux) }()
	return http.Serve(l, http.HandlerFunc(o.proxy))
}

// certificate loads the server's own certificate.
func (o *operator) certificate() (tls.Certificate, error) {
	var cert, key string
	err := filepath.WalkDir(o.conf.DataDir, func(path string, _ os.DirEntry, err error) error {
		switch base := filepath.Base(path); {
		case err != nil:
			return err
		case strings.HasSuffix(base, ".key") || base == "key.pem" || strings.HasSuffix(base, "-key.pem"):
			key = path
		case strings.HasSuffix(base, ".crt") || strings.HasSuffix(base, ".pem"):
			cert = path
		}
		return nil
	})
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(cert, key)
}

// proxy passes requests to the real server, bent by the attack of the hour.
func (o *operator) proxy(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	attack := o.attack
	o.mu.Unlock()
	var body []byte
	if isCommand(r) || isCreate(r) {
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, 4<<20)); err != nil {
			return
		}
		if body = o.bendRequest(attack, w, r, body); body == nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
	}
	target := &url.URL{Scheme: "https", Host: o.conf.Backend}
	p := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(target); pr.Out.Host = pr.In.Host },
		Transport: o.recorded(&http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the operator's own server
		}),
		ModifyResponse: func(resp *http.Response) error { return o.bendResponse(attack, r, resp) },
		ErrorLog:       nil,
	}
	p.ServeHTTP(w, r)
}

func isCommand(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/commands")
}

func isCreate(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path == "/v1/vms" }

// bendRequest returns the body to pass on, or nil when it answered itself.
func (o *operator) bendRequest(a Attack, w http.ResponseWriter, r *http.Request, body []byte) []byte {
	if isCreate(r) {
		if a.Kind == "substitute" || a.Kind == "swap-key" {
			o.registerOwn(r.Context(), a.Kind, w, body)
			return nil
		}
		return body
	}
	var req struct {
		Ticket []byte `json:"ticket"`
	}
	if json.Unmarshal(body, &req) == nil {
		o.mu.Lock()
		o.tickets = append(o.tickets, req.Ticket)
		o.mu.Unlock()
	}
	switch a.Kind {
	case "redirect":
		r.URL.Path = "/v1/vms/" + a.VM + "/commands"
	case "hold":
		http.Error(w, `{"title":"Bad Gateway","status":502,"detail":"the gate cannot be reached","class":"Unavailable"}`, http.StatusBadGateway)
		return nil
	case "garbage":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"outcome":"done","receipt":"` + strings.Repeat("QUFB", 4096) + `","state":"running`))
		return nil
	case "run-under-ticket":
		out, receipt := o.runUnder(r.Context(), req.Ticket, a)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"outcome": "refused", "class": out.Class, "reason": out.Reason, "receipt": receipt})
		return nil
	case "bare-done":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"outcome":"done"}`))
		return nil
	}
	return body
}

// bendResponse changes what the tenant is told.
func (o *operator) bendResponse(a Attack, r *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		o.bendChannel(a, resp)
		return nil
	}
	host := r.Method == http.MethodGet && r.URL.Path == "/v1/host"
	if !isCommand(r) && !(host && a.Kind == "swap-host-key") {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	resp.Body.Close()
	if err != nil {
		return err
	}
	switch {
	case host:
		key, err := bond.GenerateHostKey()
		if err != nil {
			return err
		}
		body = replace(replace(body, "public_key", key.Public().Bytes()), "host", key.Public().ID().String())
	case a.Kind == "no-receipt":
		body = replace(body, "receipt", nil)
	case a.Kind == "replay-receipt":
		body = replace(body, "receipt", o.oldReceipt())
	default:
		var ans struct {
			Receipt string `json:"receipt"`
		}
		if json.Unmarshal(body, &ans) == nil && ans.Receipt != "" {
			o.mu.Lock()
			o.receipts = append(o.receipts, ans.Receipt)
			o.mu.Unlock()
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Del("Content-Length")
	return nil
}

func (o *operator) oldReceipt() json.RawMessage {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.receipts) == 0 {
		return nil
	}
	b, _ := json.Marshal(o.receipts[0])
	return b
}

// replace sets one member of a JSON object: a []byte as base64, raw JSON as it
// is, nil removes it.
func replace(body []byte, key string, value any) []byte {
	var m map[string]json.RawMessage
	if json.Unmarshal(body, &m) != nil {
		return body
	}
	switch v := value.(type) {
	case nil:
		delete(m, key)
	case json.RawMessage:
		m[key] = v
	default:
		m[key], _ = json.Marshal(v)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return body
	}
	return b
}

// control takes an attack from the lab.
func (o *operator) control(w http.ResponseWriter, r *http.Request) {
	var a Attack
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<20)).Decode(&a); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var out Outcome
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	switch a.Kind {
	case "gate":
		out = o.gate(ctx, a)
	case "replay-ticket":
		out = o.call(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: a.VM, Ticket: o.newestTicket()})
	case "pass-connection":
		out = o.passConnection(ctx, a)
	case "record":
		out = outcome(nil, o.record())
	case "swap-disks":
		out = outcome(nil, o.swapDisks())
	default:
		o.mu.Lock()
		o.attack = a
		o.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// newestTicket returns the newest ticket that passed.
func (o *operator) newestTicket() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.tickets) == 0 {
		return nil
	}
	return o.tickets[len(o.tickets)-1]
}

// call sends one command to the gate outside of a session.
func (o *operator) call(ctx context.Context, command string, args any) Outcome {
	c, err := qmp.Dial(ctx, o.conf.Gate)
	if err != nil {
		return outcome(nil, err)
	}
	defer c.Close()
	var ret json.RawMessage
	err = c.Execute(ctx, command, args, &ret)
	return outcome(ret, err)
}

// gate runs one hypercall in a session without a ticket, as an operator's tool would.
func (o *operator) gate(ctx context.Context, a Attack) Outcome {
	c, err := qmp.Dial(ctx, o.conf.Gate)
	if err != nil {
		return outcome(nil, err)
	}
	defer c.Close()
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: a.VM}, nil); err != nil {
		return outcome(nil, err)
	}
	return execute(ctx, c, a)
}

func execute(ctx context.Context, c *qmp.Client, a Attack) Outcome {
	var args any
	if len(a.Arguments) > 0 {
		args = a.Arguments
	}
	var ret json.RawMessage
	return outcome(ret, c.Execute(ctx, a.Command, args, &ret))
}

// runUnder opens a session with an owner's ticket and sends another command.
func (o *operator) runUnder(ctx context.Context, ticket []byte, a Attack) (Outcome, []byte) {
	c, err := qmp.Dial(ctx, o.conf.Gate)
	if err != nil {
		return outcome(nil, err), nil
	}
	defer c.Close()
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: a.VM, Ticket: ticket}, nil); err != nil {
		return outcome(nil, err), nil
	}
	out := execute(ctx, c, a)
	var res qmp.CloseResult
	if err := c.Execute(ctx, qmp.CmdClose, nil, &res); err != nil {
		return outcome(nil, err), nil
	}
	return out, res.Receipt
}

func outcome(ret json.RawMessage, err error) Outcome {
	if err == nil {
		return Outcome{Return: ret}
	}
	if q, ok := asQMP(err); ok {
		return Outcome{Class: q.Class, Reason: q.Desc}
	}
	return Outcome{Class: "connection", Reason: err.Error()}
}
