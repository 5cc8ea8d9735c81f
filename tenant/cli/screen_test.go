package cli

import (
	"context"
	"crypto/des"
	"fmt"
	"image/png"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant/rfb/rfbtest"
)

// machine gives the fake host's VMs the screen of a real QEMU.
func machine(ts *testscript.TestScript, _ bool, _ []string) {
	m, err := rfbtest.Start()
	ts.Check(err)
	ts.Defer(m.Close)
	server(ts).Keeper(channel.KindScreen, func(ctx context.Context, c net.Conn, _ uint16) {
		vnc, err := m.Dial(ctx)
		if err != nil {
			return
		}
		defer vnc.Close()
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, vnc)
		}()
		_, _ = io.Copy(vnc, c)
	})
}

// vncPicture is a viewer: vncpicture PORT PASSWORD-FILE OUT. It undoes what
// hides the password in a file, as viewers do.
func vncPicture() {
	err := func() error {
		hidden, err := os.ReadFile(os.Args[2])
		if err != nil {
			return err
		}
		if st, err := os.Stat(os.Args[2]); err != nil || st.Mode().Perm() != 0o600 || len(hidden) != 8 {
			return fmt.Errorf("the file of the password: %v, %v, %d bytes", err, st.Mode(), len(hidden))
		}
		if dir := filepath.Dir(os.Args[2]); dir != "/dev/fd" {
			return fmt.Errorf("the password is in a file of %s, and stays there if uvbond is killed", dir)
		}
		c, err := des.NewCipher([]byte{0xe8, 0x4a, 0xd6, 0x60, 0xc4, 0x72, 0x1a, 0xe0})
		if err != nil {
			return err
		}
		password := make([]byte, 8)
		c.Decrypt(password, hidden)
		port, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		picture, err := rfbtest.Capture(ctx, port, string(password))
		if err != nil {
			return err
		}
		f, err := os.Create(os.Args[3])
		if err != nil {
			return err
		}
		defer f.Close()
		return png.Encode(f, picture)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vncpicture:", err)
		os.Exit(1)
	}
}
