package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// runQueue tells how long the calling thread has waited for a processor: what
// the machine, not the program, held it up.
type runQueue struct {
	file *os.File
	buf  [64]byte
}

// openRunQueue returns the run queue of the calling thread, to which the
// goroutine must be locked.
func openRunQueue() *runQueue {
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/schedstat", syscall.Gettid()))
	if err != nil {
		return &runQueue{}
	}
	return &runQueue{file: f}
}

// waited returns the time so far, and 0 where the system does not say.
func (q *runQueue) waited() time.Duration {
	if q.file == nil {
		return 0
	}
	n, err := q.file.ReadAt(q.buf[:], 0)
	if n == 0 && err != nil {
		return 0
	}
	// Time on the processor, time waiting for one, turns.
	_, rest, _ := bytes.Cut(q.buf[:n], []byte(" "))
	delay, _, _ := bytes.Cut(rest, []byte(" "))
	ns, err := strconv.ParseInt(string(delay), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}

// close gives the run queue up.
func (q *runQueue) close() {
	if q.file != nil {
		_ = q.file.Close()
	}
}

// threadTime returns the CPU time of the calling thread.
func threadTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
