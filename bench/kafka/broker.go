package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// brokerEnv, if set, makes this program the broker of the one that started it.
const brokerEnv = "FLUX_BENCH_KAFKA_BROKER"

// serve is the broker until standard input ends, in a process that startBroker
// started. It returns false at once in any other.
func serve() bool {
	if os.Getenv(brokerEnv) == "" {
		return false
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka: broker:", err)
		os.Exit(1)
	}
	defer c.Close()
	fmt.Println(strings.Join(c.ListenAddrs(), ","))
	_, _ = io.Copy(io.Discard, os.Stdin) // the parent closes it, at its death too
	return true
}

// startBroker starts a Kafka in a process of its own, so that the CPU time of
// this one is the clients' alone.
func startBroker() (addrs string, stop func() error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), brokerEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("the broker did not start: %w", err), stop())
	}
	return strings.TrimSpace(line), stop, nil
}
