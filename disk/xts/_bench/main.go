// This program compares disk/xts with OpenSSL and with C intrinsics, AES-256,
// one core:
//
//	go run ./disk/xts/_bench [-rounds 5]
//
// It needs gcc, libcrypto.so.3 and the openssl command, amd64 with VAES and
// AVX-512. Everything runs in turn in each round, on one core; medians are
// printed. "CPU second" is data per second of CPU time, as openssl speed
// counts; "burst" is the best of short runs, which other load spoils least.
// "limit" is what the AES units can do on independent data, at nothing else.
package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/xts"
)

// what was measured: who, how, the sector size and the length of a call.
type what struct {
	who, how     string
	sector, call int
}

var calls = []what{{sector: 4096, call: 4 << 10}, {sector: 4096, call: 64 << 10}, {sector: 4096, call: 1 << 20},
	{sector: 512, call: 512}, {sector: 512, call: 4 << 10}, {sector: 512, call: 64 << 10}, {sector: 512, call: 1 << 20}}

func main() {
	rounds := flag.Int("rounds", 5, "rounds of everything")
	flag.Parse()
	runtime.LockOSThread()
	if err := run(*rounds); err != nil {
		log.Fatal(err)
	}
}

func run(rounds int) error {
	dir, err := os.MkdirTemp("", "xtsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := filepath.Join(dir, "xts")
	_, here, _, _ := runtime.Caller(0)
	build := exec.Command("gcc", "-O3", "-march=native", "-o", c, filepath.Join(filepath.Dir(here), "intrinsics", "xts.c"), "-l:libcrypto.so.3")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	rates := map[what][]float64{} // GB/s
	var clocks []float64
	for range rounds {
		clock, err := intrinsics(c, rates)
		if err != nil {
			return err
		}
		clocks = append(clocks, clock)
		for _, n := range []int{512, 4096} {
			rate, err := opensslSpeed(n)
			if err != nil {
				return err
			}
			w := what{"openssl speed", "CPU second", n, n}
			rates[w] = append(rates[w], rate)
		}
		if err := ours(rates); err != nil {
			return err
		}
	}
	report(rates, median(clocks), rounds)
	return nil
}

// intrinsics runs the C program, which first checks itself, and returns the clock
// rate in GHz.
func intrinsics(program string, rates map[what][]float64) (clock float64, err error) {
	out, err := exec.Command(program, "time").Output()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		last, err := strconv.ParseFloat(f[len(f)-1], 64)
		if err != nil {
			return 0, err
		}
		if f[0] == "clock" {
			clock = last
			continue
		}
		w := what{who: f[0], how: "burst"}
		w.sector, _ = strconv.Atoi(f[1])
		w.call, _ = strconv.Atoi(f[2])
		rates[w] = append(rates[w], 1/last)
	}
	return clock, nil
}

func opensslSpeed(n int) (float64, error) {
	out, err := exec.Command("openssl", "speed", "-evp", "aes-256-xts", "-bytes", strconv.Itoa(n), "-seconds", "1").Output()
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(out)
	rate, err := strconv.ParseFloat(strings.TrimSuffix(string(f[len(f)-1]), "k"), 64)
	return rate / 1e6, err
}

func ours(rates map[what][]float64) error {
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i)
	}
	for _, w := range calls {
		c, err := xts.New(key, w.sector, uint64(w.sector/512))
		if err != nil {
			return err
		}
		buf := make([]byte, w.call)
		best, done := time.Hour, 0
		n := max(1, 256<<10/w.call)
		cpu, end := cpuTime(), time.Now().Add(400*time.Millisecond)
		for time.Now().Before(end) {
			start := time.Now()
			for range n {
				if err := c.EncryptSectors(buf, buf, 1); err != nil {
					return err
				}
			}
			best = min(best, time.Since(start))
			done += n * w.call
		}
		cpu = cpuTime() - cpu
		w.who, w.how = "disk/xts", "CPU second"
		rates[w] = append(rates[w], float64(done)/float64(cpu.Nanoseconds()))
		w.how = "burst"
		rates[w] = append(rates[w], float64(n*w.call)/float64(best.Nanoseconds()))
	}
	return nil
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(rates map[what][]float64, clock float64, rounds int) {
	fmt.Printf("medians of %d rounds (lowest-highest); %.2f GHz\n", rounds, clock)
	var all []what
	for w := range rates {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b what) int {
		return cmp.Or(cmp.Compare(a.how, b.how), cmp.Compare(a.who, b.who), b.sector-a.sector, a.call-b.call)
	})
	for _, w := range all {
		m := median(rates[w])
		fmt.Printf("%-13s %-10s sector %4d call %7d  %6.2f GB/s (%.2f-%.2f)  %.3f cycles/byte\n",
			w.who, w.how, w.sector, w.call, m, slices.Min(rates[w]), slices.Max(rates[w]), clock/m)
	}
	for _, w := range calls {
		us := what{"disk/xts", "CPU second", w.sector, w.call}
		them := what{"openssl speed", "CPU second", w.sector, w.sector}
		fmt.Printf("sector %4d call %7d: %.2f x openssl speed", w.sector, w.call, median(rates[us])/median(rates[them]))
		us.how = "burst"
		if c := rates[what{"c", "burst", w.sector, w.call}]; c != nil {
			limit := rates[what{"limit", "burst", 4096, 1 << 20}]
			fmt.Printf(", %.2f x C intrinsics, %.2f x the AES units' limit", median(rates[us])/median(c), median(rates[us])/median(limit))
		}
		fmt.Println()
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
