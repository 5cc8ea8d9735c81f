package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

const (
	// eventBuffer is how many events wait for a reader; the oldest are dropped.
	eventBuffer = 256
	// redialPause lies between two attempts to reach a monitor that hung up.
	redialPause = time.Second
	// drainTime is how long after the end of QEMU its last words are waited for.
	drainTime = time.Second
)

// ErrClosed is returned by an Instance after Close.
var ErrClosed = errors.New("the VM's handle is closed")

// Instance is one QEMU process with a connected monitor. Its methods may be used at the
// same time from several goroutines.
type Instance struct {
	cfg    Config
	rec    Record
	proc   *process
	stderr *tail // nil for an adopted process
	events chan qmp.Event
	done   chan struct{} // closed when everything is cleaned up after the end
	pumps  sync.WaitGroup

	// life ends, with mu held, when the process has ended or Close is called.
	life context.Context
	end  context.CancelFunc

	forwards forwards
	adding   sync.Mutex // held while a screen is added

	mu sync.Mutex
	// What follows is guarded by mu.
	client *qmp.Client
	quit   bool // QEMU was asked to end, or said that it does
	killed bool
	shut   bool // Close was called
	exit   ExitInfo
}

// Status is the answer to query-status.
type Status struct {
	Status  string `json:"status"`
	Running bool   `json:"running"`
}

func newInstance(cfg Config, rec Record, stderr *tail) (*Instance, error) {
	if cfg.RunDir == "" || rec.QMPPath == "" {
		return nil, errors.New("no run directory or no monitor path given")
	}
	i := &Instance{
		cfg:    cfg,
		rec:    rec,
		stderr: stderr,
		events: make(chan qmp.Event, eventBuffer),
		done:   make(chan struct{}),
	}
	i.life, i.end = context.WithCancel(context.Background())
	return i, nil
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}

func (c Config) startTimeout() time.Duration {
	if c.StartTimeout <= 0 {
		return DefaultStartTimeout
	}
	return c.StartTimeout
}

// PID returns QEMU's process id.
func (i *Instance) PID() int { return i.rec.PID }

// Record returns what Adopt needs.
func (i *Instance) Record() Record { return i.rec }

// Events delivers what QEMU reports. Without a reader the oldest events are dropped.
// It is closed with Done; after Close nothing more comes.
func (i *Instance) Events() <-chan qmp.Event { return i.events }

// Done is closed when the process has ended and its files are removed. It stays open
// after Close.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Exit says how the process ended; it means something when Done is closed.
func (i *Instance) Exit() ExitInfo {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.exit
}

// Stderr returns the last of what QEMU wrote to its standard error; nothing for an
// adopted process.
func (i *Instance) Stderr() string {
	if i.stderr == nil {
		return ""
	}
	return i.stderr.String()
}

// Execute sends one command to QEMU and returns its answer. QEMU's own refusal is a
// *qmp.Error. While the monitor is being reconnected it fails; so does a command whose
// answer was lost with the connection, which may have been carried out.
func (i *Instance) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	return i.execute(ctx, command, args)
}

// execute is Execute with files that go beside the command.
func (i *Instance) execute(ctx context.Context, command string, args any, files ...*os.File) (json.RawMessage, error) {
	i.mu.Lock()
	client, shut := i.client, i.shut
	i.mu.Unlock()
	switch {
	case shut:
		return nil, ErrClosed
	case client == nil:
		return nil, fmt.Errorf("%s: the monitor is not connected", command)
	}
	if command == "quit" {
		// Before it is sent: the process may be gone before the answer is read.
		i.setQuit(true)
	}
	var answer json.RawMessage
	err := client.Execute(ctx, command, args, &answer, files...)
	var refused *qmp.Error
	if command == "quit" && errors.As(err, &refused) {
		i.setQuit(false)
	}
	return answer, err
}

func (i *Instance) setQuit(to bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.quit = to
}

// Status asks QEMU for its run state.
func (i *Instance) Status(ctx context.Context) (Status, error) {
	var s Status
	text, err := i.Execute(ctx, "query-status", nil)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("query-status: %w", err)
	}
	return s, nil
}

// Kill ends the process at once. It does not wait: see Done.
func (i *Instance) Kill() error {
	i.mu.Lock()
	if i.shut {
		i.mu.Unlock()
		return ErrClosed
	}
	if i.life.Err() != nil {
		i.mu.Unlock()
		return nil // it has ended
	}
	i.killed = true
	i.mu.Unlock()
	return i.proc.kill()
}

// Close lets go of the process without ending it: the monitor is free for the next
// daemon, and Adopt finds the process again. Nothing more comes from Events and Done.
func (i *Instance) Close() error {
	i.mu.Lock()
	select {
	case <-i.done:
		i.shut = true
	default:
	}
	if i.shut {
		i.mu.Unlock()
		return nil
	}
	i.shut = true
	client := i.client
	i.client = nil
	i.end()
	i.mu.Unlock()
	if client != nil {
		client.Close()
	}
	i.pumps.Wait()
	return nil
}

// watchChild takes over a process that this one started. It fills in the record.
func (i *Instance) watchChild(cmd *exec.Cmd, output *os.File) error {
	pid := cmd.Process.Pid
	start, _, err := processTime(pid)
	if err != nil {
		return err
	}
	p, err := openProcess(pid, start)
	if err != nil {
		return err
	}
	i.rec.PID, i.rec.StartTime, i.proc = pid, start, p
	drained := drain(i.stderr, output)
	go func() {
		p.wait()
		cmd.Wait() // at once: it reaps the process
		select {
		case <-drained:
		case <-time.After(drainTime):
		}
		i.finish(childExit(cmd.ProcessState, i.stderr.String()))
	}()
	return nil
}

// watchAdopted takes over a process of an earlier daemon.
func (i *Instance) watchAdopted(p *process) {
	i.proc = p
	// Ending wait by closing the handle: the goroutine must not outlive Close.
	stop := context.AfterFunc(i.life, p.close)
	go func() {
		if p.wait() != nil {
			return // closed; the process runs on
		}
		stop()
		i.finish(ExitInfo{Code: -1, Reason: ExitUnknown, Detail: "the process was started by an earlier daemon"})
	}()
}

func childExit(state *os.ProcessState, said string) ExitInfo {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return ExitInfo{Code: -1, Signal: int(status.Signal()), Reason: ExitCrashed, Detail: joinDetail("signal: "+status.Signal().String(), said)}
	}
	e := ExitInfo{Code: status.ExitStatus(), Reason: ExitQuit, Detail: said}
	if e.Code != 0 {
		e.Reason = ExitFailed
	}
	return e
}

func joinDetail(a, b string) string {
	if b == "" {
		return a
	}
	return a + "; " + b
}

// finish records the end and cleans up. After Close it does nothing: the files belong
// to whoever adopted the process.
func (i *Instance) finish(e ExitInfo) {
	defer i.proc.close()
	i.mu.Lock()
	if i.shut {
		i.mu.Unlock()
		return
	}
	client := i.client
	i.end()
	i.mu.Unlock()
	if client != nil {
		// The last events, among them the reason, are already on their way.
		select {
		case <-client.Done():
		case <-time.After(drainTime):
			client.Close()
		}
	}
	i.pumps.Wait()
	cleanupOwn(i.cfg, i.rec.ID)
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.killed && (e.Signal == int(syscall.SIGKILL) || e.Reason == ExitUnknown):
		e.Reason = ExitKilled
	case i.quit && e.Reason == ExitUnknown:
		e.Reason = ExitQuit
	}
	i.exit = e
	close(i.events)
	close(i.done)
}

// text says how the process ended, without its last words.
func (e ExitInfo) text() string {
	switch {
	case e.Signal != 0:
		return fmt.Sprintf("%s, signal %d (%s)", e.Reason, e.Signal, syscall.Signal(e.Signal))
	case e.Code >= 0:
		return fmt.Sprintf("%s, exit status %d", e.Reason, e.Code)
	}
	return e.Reason
}
