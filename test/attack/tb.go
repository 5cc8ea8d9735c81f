package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
)

// stubName is how the stub of a QEMU knows itself: see machinetest.
const stubName = "qemu-stub"

func isStub(program string) bool { return filepath.Base(program) == stubName && machinetest.IsStub() }

// tb lets a program use what machinetest has for tests.
type tb struct{ testing.TB }

func (*tb) Helper()                  {}
func (*tb) Context() context.Context { return context.Background() }
func (*tb) Fatal(args ...any)        { panic(failed(fmt.Sprintln(args...))) }
func (*tb) Fatalf(format string, args ...any) {
	panic(failed(fmt.Sprintf(format, args...)))
}

type failed string

// asTest runs f; what would end a test is an error here.
func asTest(f func(t *tb)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failed)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%s", string(f))
		}
	}()
	f(&tb{})
	return nil
}
