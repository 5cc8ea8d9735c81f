package vm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names below RunDir/<vm>; the package comment says what belongs to whom.
const (
	monitorName = "monitor"
	socketName  = "sockets"
	rootName    = "root"
	varsName    = "vars.fd"
	qmpName     = "qmp.sock"
)

// The firmware's files, as Debian names them: code, and variables before first use.
const (
	codeFile = "OVMF_CODE_4M.fd"
	varsFile = "OVMF_VARS_4M.fd"
)

// SocketDir returns the directory for the VM's NBD and console sockets. It depends on
// nothing but its arguments.
func SocketDir(cfg Config, id string) string { return filepath.Join(cfg.RunDir, id, socketName) }

func monitorPath(cfg Config, id string) string {
	return filepath.Join(cfg.RunDir, id, monitorName, qmpName)
}

// Prepare makes the VM's directories and returns SocketDir, where the keeper's sockets
// are to be made before Launch. It may be called again.
func Prepare(cfg Config, id string, slot int) (socketDir string, err error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("vm id %q is not 32 lower-case hexadecimal digits", id)
	}
	if !filepath.IsAbs(cfg.RunDir) {
		return "", fmt.Errorf("run directory %q is not an absolute path", cfg.RunDir)
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return "", fmt.Errorf("make the run directory: %w", err)
	}
	if err := checkOwn(cfg.RunDir); err != nil {
		return "", err
	}
	dir := filepath.Join(cfg.RunDir, id)
	for _, d := range []string{dir, filepath.Join(dir, monitorName), filepath.Join(dir, rootName)} {
		if err := makeDir(d, 0, 0o700); err != nil {
			return "", err
		}
	}
	socketDir = SocketDir(cfg, id)
	mode, gid := os.FileMode(0o700), 0
	if isRoot() {
		mode, gid = 0o710, int(cfg.UID(slot))
	}
	return socketDir, makeDir(socketDir, gid, mode)
}

// checkOwn refuses a directory in which somebody else could put things.
func checkOwn(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("run directory %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("run directory %s must be a directory of uid %d that nobody else can write to", path, os.Geteuid())
	}
	return nil
}

// makeDir makes a directory, or corrects the mode and group of one that exists. Its
// parent is writable for this user only, so that nobody can swap it in between.
func makeDir(path string, gid int, mode os.FileMode) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is in the way: it is not a directory", path)
	}
	if isRoot() {
		if err := os.Lchown(path, 0, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

func isRoot() bool { return os.Geteuid() == 0 }

// Cleanup removes what a VM's instance left below RunDir. The instance must have ended.
// Nothing to remove is no error.
func Cleanup(cfg Config, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("vm id %q is not 32 lower-case hexadecimal digits", id)
	}
	return os.RemoveAll(filepath.Join(cfg.RunDir, id))
}

// cleanupOwn removes what belongs to the QEMU process alone; the sockets stay, because
// the keeper may still listen there, and with them the directory.
func cleanupOwn(cfg Config, id string) {
	dir := filepath.Join(cfg.RunDir, id)
	os.RemoveAll(filepath.Join(dir, monitorName))
	os.Remove(filepath.Join(dir, rootName))
	os.Remove(filepath.Join(dir, varsName))
	os.Remove(dir) // fails when it still holds something
}

// listenMonitor makes the monitor's socket and returns its listener as a file for QEMU
// to inherit. It refuses when something answers there already.
func listenMonitor(cfg Config, id string) (*os.File, error) {
	path := monitorPath(cfg, id)
	if err := checkPath(path); err != nil {
		return nil, fmt.Errorf("monitor socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("vm %s has a QEMU already: its monitor answers", id)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("monitor socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// copyVars makes this boot's private copy of the UEFI variables and opens it. What the
// guest changes there lasts as long as the instance.
func copyVars(cfg Config, id string) (*os.File, error) {
	from, err := os.Open(filepath.Join(cfg.firmwareDir(), varsFile))
	if err != nil {
		return nil, fmt.Errorf("UEFI variables: %w", err)
	}
	defer from.Close()
	path := filepath.Join(cfg.RunDir, id, varsName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("UEFI variables: %w", err)
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return nil, fmt.Errorf("copy the UEFI variables: %w", err)
	}
	return to, nil
}
