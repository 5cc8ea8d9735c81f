package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// errEnded says that there will be no monitor any more.
var errEnded = errors.New("QEMU ended before its monitor answered")

// connect reaches the monitor for the first time and keeps the connection up from then
// on. It gives up when the process ends.
func (i *Instance) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(i.life, cancel)
	defer stop()
	client, err := qmp.Dial(ctx, i.rec.QMPPath)
	if err != nil && i.life.Err() != nil {
		return errEnded
	}
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.life.Err() != nil {
		client.Close()
		return errEnded
	}
	i.client = client
	i.pumps.Add(1)
	go i.pump(client)
	return nil
}

// pump passes on events and replaces a connection that broke while QEMU runs on, until
// the process has ended or Close is called.
func (i *Instance) pump(client *qmp.Client) {
	defer i.pumps.Done()
	for client != nil {
		for e := range client.Events() {
			i.note(e)
			i.deliver(e)
		}
		client = i.redial(client)
	}
}

// redial returns a new connection, or nil when none is needed any more.
func (i *Instance) redial(lost *qmp.Client) *qmp.Client {
	if !i.replace(nil) {
		return nil
	}
	log := i.cfg.logger().With("vm", i.rec.ID)
	for told := false; ; told = true {
		client, err := qmp.Dial(i.life, i.rec.QMPPath)
		if err == nil {
			if i.replace(client) {
				log.Warn("connected to the monitor again")
				return client
			}
			client.Close()
			return nil
		}
		select {
		case <-i.life.Done():
			return nil
		case <-time.After(redialPause):
		}
		if !told {
			// Not before the pause: the end of the process is no reason to complain.
			log.Warn("lost the monitor, trying to connect again", "lost", lost.Err(), "error", err)
		}
	}
}

// replace changes the connection that Execute uses unless it is too late for that.
func (i *Instance) replace(client *qmp.Client) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.life.Err() != nil {
		return false
	}
	i.client = client
	return true
}

// note learns from QEMU's own word why it ends. An adopted process has no better one.
func (i *Instance) note(e qmp.Event) {
	if e.Event != "SHUTDOWN" {
		return
	}
	var data struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &data) == nil && (data.Reason == "host-qmp-quit" || data.Reason == "host-signal") {
		i.setQuit(true)
	}
}

// deliver has one caller, so after the oldest event was dropped there is room.
func (i *Instance) deliver(e qmp.Event) {
	for {
		select {
		case i.events <- e:
			return
		default:
		}
		select {
		case <-i.events:
		default:
		}
	}
}
