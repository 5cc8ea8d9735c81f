package vm

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

func (c Config) binary() string {
	if c.BinaryPath == "" {
		return DefaultBinary
	}
	return c.BinaryPath
}

func (c Config) self() string {
	if c.Self == "" {
		return "/proc/self/exe"
	}
	return c.Self
}

func (c Config) firmwareDir() string {
	if c.FirmwareDir == "" {
		return DefaultFirmwareDir
	}
	return c.FirmwareDir
}

// accel returns the accelerator to use and why.
func (c Config) accel() (accel, why string, err error) {
	switch c.Accel {
	case "", AccelAuto:
		accel, why = DetectAccel()
		return accel, why, nil
	case AccelKVM, AccelTCG:
		return c.Accel, "chosen by the configuration", nil
	}
	return "", "", fmt.Errorf("accelerator %q is not known: use %q, %q or %q", c.Accel, AccelAuto, AccelKVM, AccelTCG)
}

// DetectAccel returns AccelKVM when KVM can be used, else AccelTCG, and the reason for
// people. A /dev/kvm that opens is no proof: there are emulations of it, on processors
// that do not offer virtualisation, under which a guest's kernel dies.
func DetectAccel() (accel, why string) { return detectAccel("/dev/kvm", "/proc/cpuinfo") }

func detectAccel(device, cpuinfo string) (accel, why string) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return AccelTCG, fmt.Sprintf("%s cannot be opened (%v): guests are emulated, which is slow", device, unwrapPath(err))
	}
	f.Close()
	flag, err := virtualisationFlag(cpuinfo)
	if err != nil {
		return AccelTCG, fmt.Sprintf("the processor's flags cannot be read (%v): guests are emulated, which is slow", err)
	}
	if flag == "" {
		return AccelTCG, fmt.Sprintf("%s opens, but the processor has neither vmx nor svm, so it is no real KVM: guests are emulated, which is slow", device)
	}
	return AccelKVM, fmt.Sprintf("%s opens and the processor has %s", device, flag)
}

func unwrapPath(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

// virtualisationFlag returns "vmx", "svm" or nothing.
func virtualisationFlag(cpuinfo string) (string, error) {
	f, err := os.Open(cpuinfo)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "vmx" || flag == "svm" {
				return flag, nil
			}
		}
	}
	return "", lines.Err()
}
