package gatetest

import (
	"io"
	"net"

	"github.com/uvbond/uvbond/qmp"
)

// ChannelEnd plays the keeper: it has the gate's connection behind the answer to
// uvbond-channel, which is closed when it returns.
type ChannelEnd func(c *net.UnixConn, args map[string]any)

// Channels replaces the far end of channels, which echoes.
func (g *Gate) Channels(end ChannelEnd) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.channel = end
}

func (g *Gate) endOfChannel() ChannelEnd {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.channel != nil {
		return g.channel
	}
	return func(c *net.UnixConn, _ map[string]any) { io.Copy(c, c) } //nolint:errcheck // ends with the connection
}

func (g *Gate) openChannel(s *session, v *VM) (any, error) {
	if v.State == qmp.StateStopped {
		return nil, qmp.Errorf(qmp.ClassNotRunning, "the VM has no instance")
	}
	r := g.close(s).(qmp.CloseResult) //nolint:errcheck // always
	return qmp.ChannelResult{Receipt: r.Receipt}, nil
}
