package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxlimiter/flux/bench/internal/cputime"
)

// userHZ is the unit of /proc/stat: Linux reports hundredths of a second to
// programs whatever the kernel's own tick is.
const userHZ = 100

// spent is what a stretch of work took.
type spent struct {
	wall, cpu time.Duration
	// foreign is the share of the machine that other processes, and the
	// hypervisor, took meanwhile; 0 where the system does not say.
	foreign float64
}

// machine watches what else the machine does, since a figure taken beside
// another busy process says little.
type machine struct {
	maxForeign float64       // samples above it are taken again
	patience   time.Duration // how long to wait for a quiet moment

	foreign []float64 // of every sample kept
	retaken int
}

// measure runs f and returns what it took.
func (m *machine) measure(f func()) spent {
	busy, cpu, start := busyTime(), cputime.Process(), time.Now()
	f()
	s := spent{wall: time.Since(start), cpu: cputime.Process() - cpu}
	if after := busyTime(); after > 0 {
		total := float64(s.wall) * float64(runtime.NumCPU())
		s.foreign = min(max(0, float64(after-busy-s.cpu)/total), 1)
	}
	return s
}

// keep notes that a sample was kept.
func (m *machine) keep(s spent) spent {
	m.foreign = append(m.foreign, s.foreign)
	return s
}

// measureQuiet is measure, again up to three times when other processes took too
// much of the machine; the quietest of them counts.
func (m *machine) measureQuiet(f func()) spent {
	best := m.measure(f)
	for try := 0; try < 3 && best.foreign > m.maxForeign && m.patience > 0; try++ {
		m.waitQuiet()
		m.retaken++
		if s := m.measure(f); s.foreign < best.foreign {
			best = s
		}
	}
	return m.keep(best)
}

// waitQuiet returns once other processes leave the machine alone, or when
// patience ends.
func (m *machine) waitQuiet() {
	for end := time.Now().Add(m.patience); time.Now().Before(end); {
		if m.measure(func() { time.Sleep(100 * time.Millisecond) }).foreign <= m.maxForeign/2 {
			return
		}
	}
}

// String says what the machine is and how quiet it was.
func (m *machine) String() string {
	s := fmt.Sprintf("%s, %s/%s, %s, GOMAXPROCS %d.", runtime.Version(), runtime.GOOS, runtime.GOARCH, cpuModel(), runtime.GOMAXPROCS(0))
	if len(m.foreign) == 0 || slices.Max(m.foreign) == 0 {
		return s
	}
	f := summarize(m.foreign)
	return s + fmt.Sprintf(" Other processes took %.0f %% of the machine during the median sample and %.0f %% during the worst; %d samples above %.0f %% were taken again.",
		100*f.median, 100*f.high, m.retaken, 100*m.maxForeign)
}

// busyTime returns the time that all processors together have spent on
// anything, or 0 where the system does not say.
func busyTime() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	// cpu user nice system idle iowait irq softirq steal ...
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / userHZ)
}

// cpuModel returns the processor's name and the number of processors.
func cpuModel() string {
	name := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), name)
}
