package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
	"github.com/uvbond/uvbond/server/vms"
)

// base64Room is what n bytes take in a JSON body, with room for the rest.
func base64Room(n int64) int64 { return n*4/3 + 16<<10 }

// Disk joins a registered disk to its image.
type Disk struct {
	Name  string `json:"name" doc:"As in the registration."`
	Image string `json:"image" doc:"Image id."`
}

// VM is the server's record of a VM. Its state is unverified.
type VM struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	State        string    `json:"state" doc:"As the gate says, unknown when it cannot be asked, missing when it does not know the VM. Not verified."`
	Created      time.Time `json:"created"`
	Disks        []Disk    `json:"disks" nullable:"false"`
	Confirmation []byte    `json:"confirmation,omitempty" doc:"Sealed by the hypervisor."`
	Descriptor   []byte    `json:"descriptor,omitempty" doc:"Sealed by the hypervisor; of the last instance started."`
	Limits       []Limit   `json:"limits,omitempty" doc:"Of the disks that have any, while the VM runs. Not verified."`
	Builds       []Build   `json:"builds,omitempty" doc:"Of the disks that are still to be made from base images. Not verified."`
}

// Build is how far a disk is made from its base image.
type Build struct {
	Disk  string `json:"disk"`
	Phase string `json:"phase" doc:"check: the base is held against the owner's SHA-256; write: it is encrypted."`
	Done  uint64 `json:"done" doc:"Bytes of the base in this phase."`
	Total uint64 `json:"total" doc:"Bytes of the base."`
}

// Limit is what a disk may do in a second; 0 is no limit.
type Limit struct {
	Disk  string `json:"disk"`
	IOPS  uint64 `json:"iops" doc:"Requests per second."`
	Bytes uint64 `json:"bytes" doc:"Bytes per second, read and written."`
	Burst uint64 `json:"burst" doc:"For how many seconds unused service is saved up; 0: one."`
}

// NewVM registers a VM.
type NewVM struct {
	ID           string `json:"id" pattern:"^[0-9a-f]{32}$" doc:"VM id as in the registration."`
	Name         string `json:"name" maxLength:"63" doc:"Unique among the tenant's VMs."`
	Disks        []Disk `json:"disks" nullable:"false" minItems:"1" maxItems:"8"`
	Registration []byte `json:"registration" doc:"Sealed for the hypervisor, at most 256 KiB."`
}

// Registered answers a registration.
type Registered struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Confirmation []byte `json:"confirmation" doc:"Sealed by the hypervisor."`
}

// VMList is every VM of a tenant.
type VMList struct {
	VMs []VM `json:"vms" nullable:"false"`
}

// Params are a command's parameters.
type Params struct {
	Offset uint64 `json:"offset,omitempty" doc:"log: first byte wanted."`
	From   uint64 `json:"from,omitempty" doc:"audit: first record wanted."`
	Disk   string `json:"disk,omitempty" maxLength:"16" doc:"grow, build: the disk's name."`
	Size   uint64 `json:"size,omitempty" doc:"grow: bytes of the disk, as the guest will see it; the ticket says the same."`
	Stored uint64 `json:"stored,omitempty" doc:"grow: bytes that its image needs for that."`

	Delegation  string `json:"delegation,omitempty" pattern:"^[0-9a-f]{64}$" doc:"undelegate: the one to take back; the ticket says the same."`
	IssuedUntil int64  `json:"issued_until,omitempty" minimum:"1" doc:"undelegate: all that were issued until then, Unix seconds; the ticket says the same."`
}

// NewCommand is one management command.
type NewCommand struct {
	Command string  `json:"command" enum:"build,start,status,pause,resume,reset,shutdown,poweroff,log,audit,allow,grow,undelegate,delete"`
	Ticket  []byte  `json:"ticket" doc:"Sealed for the hypervisor, at most 128 KiB."`
	Params  *Params `json:"params,omitempty"`
}

// DelegatedCommand is one management command of a delegate.
type DelegatedCommand struct {
	Command string `json:"command" enum:"status,pause,resume,reset,shutdown,poweroff"`
	Ticket  []byte `json:"ticket" doc:"Sealed by the delegate for the hypervisor, at most 128 KiB."`
}

// CommandResult is what the gate answered. Only the receipt proves anything.
type CommandResult struct {
	Outcome    string   `json:"outcome" enum:"done,refused,error,unknown" doc:"unknown: the gate went away while the command ran."`
	Class      string   `json:"class,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Receipt    []byte   `json:"receipt,omitempty"`
	Descriptor []byte   `json:"descriptor,omitempty"`
	Chunks     [][]byte `json:"chunks,omitempty" doc:"log and audit: sealed chunks."`
}

func vmOf(v *vms.VM) VM {
	out := VM{ID: v.ID, Name: v.Name, State: v.State, Created: v.Created, Disks: make([]Disk, len(v.Disks)), Confirmation: v.Confirmation, Descriptor: v.Descriptor, Limits: limitsOf(v.Limits)}
	for i, d := range v.Disks {
		out.Disks[i] = Disk(d)
	}
	for _, b := range v.Builds {
		out.Builds = append(out.Builds, Build(b))
	}
	return out
}

type vmPath struct {
	ID string `path:"id" maxLength:"64"`
}

type commandInput struct {
	ID   string `path:"id" maxLength:"64"` // not embedded: huma does not reach into unexported types
	Body NewCommand
	w    http.ResponseWriter
}

type delegatedInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body DelegatedCommand
	w    http.ResponseWriter
}

// Resolve keeps the response writer, whose deadline a long command moves.
func (c *delegatedInput) Resolve(ctx huma.Context) []error {
	_, c.w = humago.Unwrap(ctx)
	return nil
}

// Resolve keeps the response writer, whose deadline a long command moves.
func (c *commandInput) Resolve(ctx huma.Context) []error {
	_, c.w = humago.Unwrap(ctx)
	return nil
}

func (s *Server) vmRoutes() {
	create := s.operation(http.MethodPost, "/v1/vms", "create-vm", "Register a VM", base64Room(vms.MaxRegistration), 403, 404, 409, 413, 502)
	huma.Register(s.api, create, func(ctx context.Context, in *body[NewVM]) (*body[Registered], error) {
		disks := make([]store.Disk, len(in.Body.Disks))
		for i, d := range in.Body.Disks {
			disks[i] = store.Disk(d)
		}
		v, err := s.opts.VMs.Register(ctx, tenantOf(ctx), in.Body.ID, in.Body.Name, disks, in.Body.Registration)
		if err != nil {
			return nil, fail(ctx, err)
		}
		return &body[Registered]{Registered{v.ID, v.Name, v.Confirmation}}, nil
	})
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/vms", "list-vms", "All VMs", 0),
		func(ctx context.Context, _ *struct{}) (*body[VMList], error) {
			list, err := s.opts.VMs.List(ctx, tenantOf(ctx))
			if err != nil {
				return nil, fail(ctx, err)
			}
			out := VMList{VMs: make([]VM, len(list))}
			for i := range list {
				out.VMs[i] = vmOf(&list[i])
				out.VMs[i].Confirmation, out.VMs[i].Descriptor = nil, nil
			}
			return &body[VMList]{out}, nil
		})
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/vms/{id}", "get-vm", "One VM", 0, 404),
		func(ctx context.Context, in *vmPath) (*body[VM], error) {
			v, err := s.opts.VMs.Get(ctx, tenantOf(ctx), in.ID)
			if err != nil {
				return nil, fail(ctx, err)
			}
			return &body[VM]{vmOf(v)}, nil
		})
	command := s.operation(http.MethodPost, "/v1/vms/{id}/commands", "command-vm", "Run a management command under a ticket", base64Room(vms.MaxTicket), 404, 409, 413, 502, 507)
	command.Description = "Answers 200 for whatever the gate answered, a refusal too; errors mean that nothing was asked of the VM."
	huma.Register(s.api, command, s.command)
	huma.Register(s.api, s.liveOperation(), s.live)
	delegated := s.operation(http.MethodPost, "/v1/vms/{id}/delegated", "command-delegated-vm", "Run a management command under a delegate's ticket", base64Room(vms.MaxTicket), 404, 413, 502)
	delegated.Description = "For whom the VM's owner delegated it to. Answers as for the owner's commands."
	huma.Register(s.api, delegated, func(ctx context.Context, in *delegatedInput) (*body[CommandResult], error) {
		return s.relay(ctx, in.w, in.ID, in.Body.Command, func(ctx context.Context) (*toolstack.Result, error) {
			return s.opts.VMs.Delegated(ctx, in.ID, in.Body.Command, in.Body.Ticket)
		})
	})
}

func (s *Server) command(ctx context.Context, in *commandInput) (*body[CommandResult], error) {
	return s.watched(ctx, in, nil)
}

// watched runs a command and tells watch, if any, of its hypercalls.
func (s *Server) watched(ctx context.Context, in *commandInput, watch func(toolstack.Hypercall)) (*body[CommandResult], error) {
	params := vms.Params{Watch: watch}
	if p := in.Body.Params; p != nil {
		params = vms.Params{From: p.Offset, Disk: p.Disk, Size: p.Size, Stored: p.Stored, Delegation: p.Delegation, IssuedUntil: p.IssuedUntil, Watch: watch}
		if in.Body.Command == "audit" {
			params.From = p.From
		}
	}
	return s.relay(ctx, in.w, in.ID, in.Body.Command, func(ctx context.Context) (*toolstack.Result, error) {
		return s.opts.VMs.Command(ctx, tenantOf(ctx), in.ID, in.Body.Command, in.Body.Ticket, params)
	})
}

// relay runs a command within the limits on their number and time.
func (s *Server) relay(ctx context.Context, w http.ResponseWriter, id, command string, run func(context.Context) (*toolstack.Result, error)) (*body[CommandResult], error) {
	if !s.commands.tryAcquire() {
		s.metrics.turnedAway.WithLabelValues("commands").Inc()
		return nil, fail(ctx, problem.New(http.StatusServiceUnavailable, problem.ClassTooMany, "too many commands are running; try again").With("Retry-After", "1"))
	}
	defer s.commands.release()
	t := s.opts.Config.Timeouts
	//nolint:errcheck // a connection that takes no deadline is closed already
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(t.Command.D() + t.Write.D()))
	wait, cancel := context.WithTimeout(ctx, t.Command.D())
	defer cancel()
	defer context.AfterFunc(s.opts.Stopping, cancel)()
	r, err := run(wait)
	if err != nil {
		return nil, fail(ctx, err)
	}
	if r.Outcome != toolstack.Done {
		s.opts.Log.Info("command", "request", infoOf(ctx).id, "vm", id, "command", command, "outcome", r.Outcome, "class", r.Class)
	}
	return &body[CommandResult]{CommandResult{r.Outcome, r.Class, r.Reason, r.Receipt, r.Descriptor, r.Chunks}}, nil
}
