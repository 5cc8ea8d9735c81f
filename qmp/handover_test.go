package qmp

import (
	"errors"
	"io"
	"testing"
)

// handover serves one command that ends QMP: what follows the answer comes with
// it in one write, and looks like QMP.
func handover(t *testing.T) *Client {
	return serve(t, func(c *Conn, r *Request, _ *Line) {
		switch r.Execute {
		case "refuse":
			reply(c, r.ID, nil, Errorf(ClassDenied, "no"))
		case "leave":
			text := `{"return":{"n":7},"id":` + string(r.ID) + "}\n" + `{"return":{},"id":99}` + "\nbytes"
			if _, err := c.c.Write([]byte(text)); err != nil {
				t.Error(err)
			}
		default:
			reply(c, r.ID, struct{}{}, nil)
		}
	})
}

func TestHandover(t *testing.T) {
	c := handover(t)
	ctx := testContext(t)
	if _, err := c.Handover(ctx, "refuse", nil, nil); ClassOf(err) != ClassDenied {
		t.Fatal(err)
	}
	if err := c.Execute(ctx, "plain", nil, nil); err != nil {
		t.Fatalf("QMP does not go on after a refusal: %v", err)
	}
	var ret struct{ N int }
	conn, err := c.Handover(ctx, "leave", nil, &ret)
	if err != nil || ret.N != 7 {
		t.Fatal(err, ret)
	}
	if err := c.Execute(ctx, "plain", nil, nil); !errors.Is(err, ErrHandedOver) {
		t.Fatalf("a command after the handover: %v", err)
	}
	if err := c.Close(); err != nil { // leaves the connection alone
		t.Fatal(err)
	}
	want := `{"return":{},"id":99}` + "\nbytes"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("behind the answer: %q, %v", got, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestHandoverGivenUp: a Client that is closed in between closes the connection.
func TestHandoverGivenUp(t *testing.T) {
	c := handover(t)
	if err := c.Execute(testContext(t), "plain", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Handover(testContext(t), "leave", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}
