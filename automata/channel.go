package automata

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// channels are the kinds of channels. Each has an automaton of its name in the native
// set, but is no management command of the toolstack: what uvbond-channel opens is
// relayed, and no policy or delegation may hold it.
var channels = []string{"console", "screen", "forward"}

// ChannelNames returns the kinds of channels.
func ChannelNames() []string { return slices.Clone(channels) }

// anyPort is what forward.uva accepts.
const anyPort = "port: 1..65535"

// Channel returns the text that a ticket for one channel holds, named as its kind. port is
// the guest's, for a forward; it lets no other port pass, so that the server
// cannot exchange them.
func Channel(kind string, port uint16) (string, error) {
	if !slices.Contains(channels, kind) {
		return "", fmt.Errorf("no automaton for a channel of kind %q: there are %s", kind, strings.Join(channels, ", "))
	}
	raw, err := texts.ReadFile("native/" + kind + ".uva")
	if err != nil {
		return "", err
	}
	text, places := string(raw), strings.Count(string(raw), anyPort)
	switch {
	case places == 0 && port == 0:
		return text, nil
	case places == 0:
		return "", fmt.Errorf("a channel of kind %s has no port", kind)
	case port == 0:
		return "", fmt.Errorf("a channel of kind %s needs a port from 1 to 65535", kind)
	}
	return strings.ReplaceAll(text, anyPort, "port: "+strconv.Itoa(int(port))), nil
}
