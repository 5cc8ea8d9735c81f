package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

// maxKeyFile is cryptsetup's own limit for a key file, bytes.
const maxKeyFile = 8 << 20

// terminal tells whether a person can be asked.
func (a *app) terminal() bool { return term.IsTerminal(int(a.in.Fd())) }

// confirm asks a yes-no question on the terminal; the default is no.
func (a *app) confirm(ctx context.Context, question, without string) error {
	if !a.terminal() {
		return fail.New(fail.Usage, without, "cannot ask %q: standard input is not a terminal", question)
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, err := await(ctx, func() (string, error) { return bufio.NewReader(a.in).ReadString('\n') }, nil)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return fail.New(fail.Other, "", "nothing was done")
}

// await runs a blocking read beside the context; undo puts the terminal right
// when the read is given up.
func await[T any](ctx context.Context, read func() (T, error), undo func()) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		if undo != nil {
			undo()
		}
		var zero T
		return zero, context.Cause(ctx)
	}
}

func (a *app) ask(ctx context.Context, label string) (*bond.Secret, error) {
	if !a.terminal() {
		return nil, fail.New(fail.Usage, "give it with --passphrase-file or --key-file", "a passphrase is needed and standard input is not a terminal")
	}
	fd := int(a.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.err, "%s: ", label)
	raw, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) }, func() { _ = term.Restore(fd, before) })
	fmt.Fprintln(a.err)
	if err != nil {
		return nil, err
	}
	defer bond.Wipe(raw)
	if len(raw) == 0 {
		return nil, fail.New(fail.Other, "type one, or give --passphrase-file", "the passphrase is empty")
	}
	return bond.NewSecret(raw), nil
}

// keyFlags are the two ways to give a passphrase without a prompt.
type keyFlags struct{ passphraseFile, keyFile string }

func (k *keyFlags) given() bool { return k.passphraseFile != "" || k.keyFile != "" }

// read returns the passphrase from the file given: a passphrase file without
// its final line end, a key file byte for byte.
func (k *keyFlags) read(ctx context.Context) (*bond.Secret, error) {
	return await(ctx, k.readFile, nil)
}

func (k *keyFlags) readFile() (*bond.Secret, error) {
	path, limit := k.passphraseFile, int64(64<<10)
	if path == "" {
		path, limit = k.keyFile, maxKeyFile
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "check the path", "cannot read the passphrase")
	}
	defer f.Close()
	buf := make([]byte, limit+1)
	defer bond.Wipe(buf)
	n, err := io.ReadFull(f, buf)
	if err == nil {
		return nil, fail.New(fail.Other, "give the right file", "%s is larger than %d bytes", path, limit)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fail.Wrap(err, fail.Other, "", "cannot read the passphrase")
	}
	pass := buf[:n]
	if k.keyFile == "" {
		pass = bytes.TrimSuffix(bytes.TrimSuffix(pass, []byte("\n")), []byte("\r"))
	}
	if len(pass) == 0 {
		return nil, fail.New(fail.Other, "put the passphrase into it", "%s is empty", path)
	}
	return bond.NewSecret(pass), nil
}

// forNew returns the passphrase of a disk to be made; it is asked for twice.
func (a *app) forNew(ctx context.Context, k *keyFlags) (*bond.Secret, error) {
	if k.given() {
		return k.read(ctx)
	}
	first, err := a.ask(ctx, "New passphrase")
	if err != nil {
		return nil, err
	}
	second, err := a.ask(ctx, "Again")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		first.Wipe()
		return nil, fail.New(fail.Other, "run the command again", "the two passphrases differ")
	}
	return first, nil
}

// forDisk returns the passphrase of an existing disk.
func (a *app) forDisk(k *keyFlags) func(ctx context.Context, path string, try int) (*bond.Secret, error) {
	return func(ctx context.Context, path string, try int) (*bond.Secret, error) {
		if !k.given() {
			return a.ask(ctx, "Passphrase of "+path)
		}
		if try > 0 {
			return nil, tenant.WrongPassphrase(path)
		}
		return k.read(ctx)
	}
}
